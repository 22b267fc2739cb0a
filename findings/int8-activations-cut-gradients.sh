#!/usr/bin/env bash
# Behind a layer with int8 activations nothing is trained: adapters before it get no gradient, and LoRA gets zeros.
#
# Expected   the gradient passes a quantised layer as it does with int8 weights alone, or training refuses.
# Found      a layer quantised by Int8DynamicActivationInt8WeightConfig gives its input no gradient, without an error:
#            its bias, or the adapter at its own output, keeps the loss differentiable. Gains hooked to the outputs of
#            layers 1 and 2 of 3 have grad None. peft's LoRA in all three layers: lora_B of the first two is exactly 0
#            after backward; the loss falls by the last one alone. With Int8WeightOnlyConfig all are trained.
# With       torchao 0.18.0, peft 0.21.2, torch 2.13.0, CPU; 2026-11-27
# Matters    training adapters on a quantised network on a small machine: it looks as if it worked.
# Source     torchao Int8Tensor's linear quantises the activation into whole numbers, outside autograd.
# subsense   refuses such a layer as a site; excluded, it stays between sites and cuts what lies before. The report of
#            training tells the sites that it cuts off (`TrainingReport.cut`) from those on which nothing depends.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  "torch==2.13.0" "torchao==0.18.0" "peft==0.21.2" "transformers==5.23.0" "accelerate==1.15.0" "numpy==2.4.6"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import peft
import torch
import torchao
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

print("torch", torch.__version__, "torchao", torchao.__version__, "peft", peft.__version__)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, x):
        return self.third(self.second(self.first(x).relu()).relu())


def quantised(config):
    torch.manual_seed(0)
    network = Network().requires_grad_(False)
    if config is not None:
        quantize_(network, config)
    return network


def gains(config):
    network = quantised(config)
    layers = [network.first, network.second, network.third]
    gains = [nn.Parameter(torch.ones(layer.out_features)) for layer in layers]
    for layer, gain in zip(layers, gains):
        layer.register_forward_hook(lambda module, inputs, output, gain=gain: output * gain)
    network(torch.ones(3, 64)).sum().backward()
    return [gain.grad is not None for gain in gains]


def lora(config):
    torch.manual_seed(1)
    network = peft.get_peft_model(quantised(config), peft.LoraConfig(target_modules=["first", "second", "third"], r=2))
    network(torch.ones(3, 64)).sum().backward()
    return [bool(p.grad.abs().sum() > 0) for name, p in network.named_parameters() if "lora_B" in name]


found = {}
for name, config in {
    "not quantised": None,
    "int8 weights": Int8WeightOnlyConfig(),
    "int8 weights and activations": Int8DynamicActivationInt8WeightConfig(),
}.items():
    found[name] = gains(config), lora(config)
    print(f"{name:30} gains that get a gradient {found[name][0]}, lora_B other than zero {found[name][1]}")
everything = [True, True, True]
assert found["not quantised"] == found["int8 weights"] == (everything, everything)
assert found["int8 weights and activations"] == ([False, False, True], [False, False, True])
PY
