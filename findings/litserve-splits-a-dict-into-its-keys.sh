#!/usr/bin/env bash
# LitServe with batching: where predict gives a dict, the clients get its keys.
#
# Expected   a dict of batched arrays is split by rows, or refused.
# Found      the default unbatch is list(output). For {"scores": (2,), "missing": (2,)} and two requests, the first
#            client gets the text "scores", the second "missing". For a tuple of two arrays the first client gets
#            everybody's scores, the second everybody's flags. Where the lengths agree nothing fails. Arrays are split
#            by rows, as one would think; requests of different keys are handed over as a list of dicts.
# With       litserve 0.2.19; 2026-11-27
# Matters    a server for networks with missing modalities has reason to return more than scores: what was missing,
#            which set was used.
# Source     litserve/api.py, LitAPI.unbatch and its default.
# subsense   its own server (`subsense serve`) answers row by row with the combination that was served; who writes a
#            LitAPI around an adapted network must write `unbatch`, too.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "litserve==0.2.19" "fastapi==0.165.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import litserve
import numpy as np

print("litserve", version("litserve"))


class Server(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, inputs):
        return inputs


server = Server(max_batch_size=2)
server.pre_setup()
scores, flags = np.array([0.1, 0.9]), np.array([1, 0])
outputs = {"an array": scores, "a dict": {"scores": scores, "missing": flags}, "a tuple": (scores, flags)}
found = {name: [np.asarray(part).tolist() for part in server.unbatch(output)] for name, output in outputs.items()}
for name, parts in found.items():
    print(f"predict gives {name:9} client 1 gets {parts[0]}, client 2 gets {parts[1]}")
requests = [{"rgb": 1.0}, {"rgb": 1.0, "thermal": 2.0}]
assert server.batch(requests) == requests
assert found["an array"] == [0.1, 0.9]
assert found["a dict"] == ["scores", "missing"]
assert found["a tuple"] == [[0.1, 0.9], [1, 0]]
PY
