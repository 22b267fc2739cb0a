#!/usr/bin/env bash
# remove_parametrizations on a deep copy takes the weight away from the original.
#
# Expected   a copy is changed, the module that it was copied from stays as it is.
# Found      copy.deepcopy of a module with a parametrization (weight_norm, spectral_norm, orthogonal) gives an object of
#            the same dynamic class. remove_parametrizations(copy, "weight") deletes the property from that class, so
#            the original has no weight any more: AttributeError at its next call.
# With       torch 2.13.0; 2026-11-28
# Matters    folding, exporting or quantising a copy of a network with weight-normed layers, as speech networks have:
#            the network in memory is broken by it.
# Source     torch/nn/utils/parametrize.py: `delattr(module.__class__, tensor_name)`; the class is made once, and
#            `__deepcopy__` keeps it.
# subsense   gives the copy's layer a class of its own before it removes (adapters/layers/computed.py).

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

print("torch", torch.__version__)
for way in (parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal):
    layer = way(nn.Linear(3, 3)).eval()
    x = torch.ones(1, 3)
    layer(x)
    other = copy.deepcopy(layer)
    assert type(other) is type(layer), "one class for both"
    parametrize.remove_parametrizations(other, "weight")
    other(x)
    try:
        layer(x)
    except AttributeError as error:
        print(way.__name__, "| the original:", error)
    else:
        raise AssertionError(f"{way.__name__}: the original still works")
PY
