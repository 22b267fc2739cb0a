#!/usr/bin/env bash
# What `weight` is when a hook runs: 8-bit weights have the right shape and numbers hundreds of times too large.
#
# Expected   arithmetic with a quantised weight raises, or gives what the layer computes.
# Found      Linear8bitLt.weight is (out, in) like the layer's, but holds int8 codes; the factors stand in another
#            tensor. `weight * gain` in a hook gives numbers, more than a hundred times too large, and no error.
#            Linear4bit.weight is (in * out / 2, 1) of uint8: there shape[0] as "number of features" is 1024 instead of
#            32, and the same arithmetic raises.
# With       bitsandbytes 0.50.2, torch 2.13.0, CPU; 2026-11-27
# Matters    adapters that scale a weight for a call, norms of weights by row (DoRA), and counts of features by
#            weight.shape.
# Source     bitsandbytes/nn/modules.py: Int8Params with SCB, Params4bit with quant_state.
# subsense   never reads the weight: adapters act on what the layer gives, and a fold asks the layer itself what it gives
#            for unit vectors.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "bitsandbytes==0.50.2" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import bitsandbytes
import torch
from torch import nn
from torch.nn.functional import linear

print("torch", torch.__version__, "bitsandbytes", bitsandbytes.__version__)
torch.manual_seed(0)
plain = nn.Linear(64, 32)
x, gain = torch.randn(8, 64), torch.full((32, 1), 1.5)


def quantised(layer):
    layer.load_state_dict(plain.state_dict(), strict=False)
    return layer.to("cpu")


seen = {}
eight = quantised(bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=False))
four = quantised(bitsandbytes.nn.Linear4bit(64, 32, quant_type="nf4"))
for name, layer in {"8 bit": eight, "4 bit": four}.items():
    layer.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: module.weight}))
    error = (layer(x) - plain(x)).abs().max().item()
    print(f"{name}: {seen[name].dtype}, shape {tuple(seen[name].shape)}; the layer's output is off by {error:.3f}")
    assert error < 0.5
wanted = linear(x, plain.weight * gain, plain.bias)
given = linear(x, seen["8 bit"] * gain, plain.bias)
ratio = (given.abs().mean() / wanted.abs().mean()).item()
print(f"8 bit, weight * gain: {ratio:.0f} times what it should be")
assert seen["8 bit"].dtype == torch.int8 and tuple(seen["8 bit"].shape) == (32, 64)
assert ratio > 100
assert seen["4 bit"].dtype == torch.uint8 and tuple(seen["4 bit"].shape) == (1024, 1)
try:
    linear(x, seen["4 bit"] * gain, plain.bias)
except RuntimeError:
    print("4 bit, weight * gain: RuntimeError")
else:
    raise AssertionError("4-bit codes were multiplied")
PY
