#!/usr/bin/env bash
# Fusing a convolution with its BatchNorm drops a hook on the norm, and runs the convolution's hook in another place.
#
# Expected   an error, a warning, or hooks that keep acting where they acted.
# Found      (eval mode, a hook that changes the output of one layer)
#            hook on   fuse_conv_bn_eval and fx's fuse       quantisation's fuse_modules
#            conv      runs after the norm: another output   the same
#            norm      is gone: the output without it        kept
#            Nothing is said. fx.symbolic_trace keeps both, but drops a hook of the root.
# With       torch 2.13.0; 2026-11-27
# Matters    adapters that act by hooks; fusing is a usual step of deployment.
# Source     torch/nn/utils/fusion.py copies the convolution with its hooks, and nothing of the norm but numbers;
#            torch/ao/quantization/fuse_modules.py moves the last layer's forward hooks over, too.
# subsense   fold first, fuse after: docs/deployment.md should say so. Adapting a fused network is right.

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
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval

print("torch", torch.__version__)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.norm = nn.BatchNorm2d(1)
        self.norm.running_mean.fill_(0.5)
        self.norm.running_var.fill_(4.0)

    def forward(self, x):
        return self.norm(self.conv(x))


def by_hand(network):
    network = copy.deepcopy(network)
    network.conv, network.norm = fuse_conv_bn_eval(network.conv, network.norm), nn.Identity()
    return network


ways = {
    "fuse_conv_bn_eval": by_hand,
    "fx fuse": fuse,
    "fuse_modules": lambda network: fuse_modules(network, ["conv", "norm"]),
    "fx.symbolic_trace": torch.fx.symbolic_trace,
}
x = torch.arange(4.0).reshape(1, 1, 2, 2)
found = {}
with torch.no_grad():
    for where in ("conv", "norm", ""):
        torch.manual_seed(0)
        network = Network().eval()
        plain = network(x)
        network.get_submodule(where).register_forward_hook(lambda module, inputs, output: output * 2 + 1)
        hooked = network(x)
        for name, way in ways.items():
            output = way(network)(x)
            same, without = torch.allclose(output, hooked, atol=1e-5), torch.allclose(output, plain, atol=1e-5)
            found[name, where] = "kept" if same else "gone" if without else "another output"
            print(f"hook on {where or 'root':5} {name:18} {found[name, where]}")
for name in ("fuse_conv_bn_eval", "fx fuse", "fuse_modules"):
    assert found[name, "conv"] == "another output"
assert found["fuse_conv_bn_eval", "norm"] == found["fx fuse", "norm"] == "gone"
assert found["fuse_modules", "norm"] == "kept"
assert found["fx.symbolic_trace", ""] == "gone"
assert found["fx.symbolic_trace", "conv"] == found["fx.symbolic_trace", "norm"] == "kept"
PY
