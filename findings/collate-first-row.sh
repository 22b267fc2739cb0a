#!/usr/bin/env bash
# A batch whose first row lacks a modality loses it for all rows, without a word.
#
# Expected   rows with different keys are refused, or the batch keeps all keys.
# Found      torch's default_collate and transformers' default_data_collator take the keys of the first row. Where that
#            row lacks a key (or, for transformers, holds None), the batch lacks it for everybody; where a later row
#            lacks it, the same rows in another order are a KeyError (TypeError for None). So whether one sees it
#            depends on the shuffling.
# With       torch 2.13.0, transformers 5.23.0; 2026-11-27
# Matters    a data set whose rows leave out what is missing trains as if nobody had the modality, in some batches of an
#            epoch.
# Source     torch/utils/data/_utils/collate.py goes over the keys of `batch[0]`; transformers/data/data_collator.py
#            over `features[0]`. MONAI 1.6.1, torchio 1.2.1 and accelerate 1.15.0 (`utils.concatenate`) do the same.
# subsense   takes an absent key for a missing modality, so it can't tell. `ss.Collate` and `ss.Incomplete` make batches
#            of such rows with `present`; under transformers' Trainer every row must carry every argument, and
#            `present`. Where no batch has a modality, train's report says that no row was drawn for it.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "transformers==5.23.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import itertools

import torch
import transformers
from torch.utils.data import default_collate
from transformers import default_data_collator

print("torch", torch.__version__, "transformers", transformers.__version__)
both = {"rgb": torch.ones(2), "thermal": torch.ones(2)}
lacks = {"rgb": torch.ones(2)}
none = {"rgb": torch.ones(2), "thermal": None}


def keys(collate, rows):
    try:
        return sorted(collate(rows))
    except (KeyError, TypeError) as error:
        return type(error).__name__


found = {}
for (name, collate), (what, row) in itertools.product(
    {"torch": default_collate, "transformers": default_data_collator}.items(), {"no key": lacks, "None": none}.items()
):
    found[name, what] = keys(collate, [row, both]), keys(collate, [both, row])
    print(f"{name:12} {what:6} in the first row: {found[name, what][0]}, in the second: {found[name, what][1]}")
assert found["torch", "no key"] == (["rgb"], "KeyError")
assert found["torch", "None"] == ("TypeError", "TypeError")
assert found["transformers", "no key"] == (["rgb"], "KeyError")
assert found["transformers", "None"] == (["rgb"], "TypeError")
PY
