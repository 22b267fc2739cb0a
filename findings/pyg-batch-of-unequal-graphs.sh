#!/usr/bin/env bash
# Graphs of several kinds of nodes: where one graph lacks a kind, nodes of later graphs go to the wrong one.
#
# Expected   an error, or zero nodes for the graph that lacks the kind, so that `batch` counts 0, 2.
# Found      Batch.from_data_list numbers the graphs that have the kind: `thermal.batch` is 0, 1 for graphs 0 and 2.
#            Pooling by it gives graph 2's thermal features to graph 1. Where the first graph lacks the kind, it is
#            dropped for all.
# With       torch_geometric 2.8.1, torch 2.13.0; 2026-11-27
# Matters    sensors as node types; a recording without one of them shifts the features of all that follow in its batch.
# Source     torch_geometric/data/collate.py: the stores are those of the first graph, and `batch` repeats over the
#            stores of that kind.
# subsense   not in its code; the page on data should say: give a kind that is missing zero nodes (which this script
#            shows to be right).

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "torch_geometric==2.8.1" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
import torch_geometric
from torch_geometric.data import Batch, HeteroData
from torch_geometric.nn import global_add_pool

print("torch", torch.__version__, "torch_geometric", torch_geometric.__version__)


def graph(value, thermal):
    data = HeteroData()
    data["rgb"].x = torch.full((2, 1), value)
    if thermal is not None:
        data["thermal"].x = torch.full((thermal, 1), value)
    return data


rows = [graph(1.0, 2), graph(2.0, None), graph(3.0, 2)]
store = Batch.from_data_list(rows)["thermal"]
pooled = global_add_pool(store.x, store.batch, size=3).flatten().tolist()
print("thermal.batch:", store.batch.tolist(), "| pooled for graphs 0, 1, 2:", pooled, "| should be [2.0, 0.0, 6.0]")
assert store.batch.tolist() == [0, 0, 1, 1]
assert pooled == [2.0, 6.0, 0.0]

kinds = Batch.from_data_list(rows[1:]).node_types
print("first graph lacks thermal: kinds in the batch", kinds)
assert kinds == ["rgb"]

store = Batch.from_data_list([graph(1.0, 2), graph(2.0, 0), graph(3.0, 2)])["thermal"]
pooled = global_add_pool(store.x, store.batch, size=3).flatten().tolist()
print("with zero nodes instead:", store.batch.tolist(), pooled)
assert pooled == [2.0, 0.0, 6.0]
PY
