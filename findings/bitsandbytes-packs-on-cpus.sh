#!/usr/bin/env bash
# After one call without gradients a 4-bit layer on the CPU lets no gradient through any more.
#
# Expected   a call in eval mode under no_grad leaves a layer as it was; gradients pass before and after.
# Found      on CPUs with avx512_bf16 the first such call packs the weight in another layout, in place. From then on the
#            layer's input gets no gradient (no bias; torch warns that an operator has no autograd kernel), or the call
#            raises RuntimeError about a view that is changed in place (with a bias), in train mode, too.
# With       bitsandbytes 0.50.2, torch 2.13.0, a CPU with avx512_bf16 (on others nothing is packed); 2026-11-28
# Matters    evaluate, then train adapters on a 4-bit network: those before the layer learn nothing.
# Source     bitsandbytes/nn/modules.py, Linear4bit.forward; autograd/_functions.py, matmul_4bit.
# subsense   refuses such a layer at `adapt`, with the switch that turns packing off.

set -euo pipefail
if ! grep -q avx512_bf16 /proc/cpuinfo; then
  echo "this CPU has no avx512_bf16, so nothing is packed: nothing to see"
  exit 0
fi
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

print("torch", torch.__version__, "bitsandbytes", bitsandbytes.__version__)


def make(bias, packs=True):
    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=bias, quant_type="nf4")
    layer.load_state_dict(nn.Linear(64, 64, bias=bias).state_dict(), strict=False)
    layer.support_avx512bf16_for_cpu = layer.support_avx512bf16_for_cpu and packs
    return layer.to("cpu").eval().requires_grad_(False)


def passes(layer):
    x = torch.ones(3, 64, requires_grad=True)
    try:
        layer(x).sum().backward()
        return x.grad is not None
    except RuntimeError as error:
        return type(error).__name__


found = {}
for bias in (False, True):
    for packs in (True, False):
        layer = make(bias, packs)
        seen = [passes(layer)]
        with torch.no_grad():
            layer(torch.ones(3, 64))
        seen += [passes(layer), passes(layer.train())]
        print(f"bias {bias!s:5} packs {packs!s:5} gradient before, after, after in train mode: {seen}")
        found[bias, packs] = seen
assert found[False, True] == [True, False, False]
assert found[True, True] == [True, "RuntimeError", "RuntimeError"]
assert found[False, False] == found[True, False] == [True, True, True]
PY
