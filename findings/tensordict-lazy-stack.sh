#!/usr/bin/env bash
# Stacking rows lazily hides what one row lacks, and making the stack dense deletes it.
#
# Expected   an error, as torch.stack gives; or keys that are padded.
# Found      lazy_stack and maybe_dense_stack take rows with different keys. keys() then shows what all rows share. Each
#            row still has its own keys, but contiguous(), to_tensordict() and consolidate() give a TensorDict without
#            them: no error, no warning. pad_sequence drops what the first row lacks.
# With       tensordict 0.15.3, torch 2.13.0; 2026-11-27
# Matters    one episode without thermal in a replay buffer, and the buffer that is saved or moved has no thermal at
#            all.
# Source     tensordict/_lazy.py: keys of a lazy stack are an intersection; its dense forms are made from those keys.
# subsense   reads a mapping by its keys, so it would take thermal for missing in every row: pass full keys and
#            `present`.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "tensordict==0.15.3" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import tensordict
import torch
from tensordict import TensorDict, lazy_stack, pad_sequence

print("torch", torch.__version__, "tensordict", tensordict.__version__)
whole = TensorDict({"rgb": torch.ones(2), "thermal": torch.ones(3)}, [])
lacks = TensorDict({"rgb": torch.ones(2)}, [])
try:
    torch.stack([whole, lacks])
except RuntimeError as error:
    print("torch.stack:", type(error).__name__)
else:
    raise AssertionError("torch.stack took them")

stack = lazy_stack([whole, lacks])
found = {
    "keys": sorted(stack.keys()),
    "row 0": sorted(stack[0].keys()),
    "contiguous": sorted(stack.contiguous().keys()),
    "to_tensordict": sorted(stack.to_tensordict().keys()),
    "consolidate": sorted(stack.consolidate().keys()),
    "get('thermal')": stack.get("thermal"),
    "pad_sequence, first row lacks it": sorted(pad_sequence([lacks.unsqueeze(0), whole.unsqueeze(0)]).keys()),
}
for name, value in found.items():
    print(f"{name:34}{value}")
assert found["row 0"] == ["rgb", "thermal"]
assert found["get('thermal')"] is None
for name in ("keys", "contiguous", "to_tensordict", "consolidate", "pad_sequence, first row lacks it"):
    assert found[name] == ["rgb"], name
PY
