"""What stands between a network and its layers is refused, and can be left out where it is a part."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsense import PlanError, UnsupportedLayer, adapt, plan

# torch's, of its own TorchScript and quantisation
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


class Strange(Tensor):
    """A tensor with arithmetic of its own, as sharded and quantised weights are."""


def strange(layer: nn.Linear) -> nn.Linear:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Strange))
    return layer


def quantised(layer: nn.Linear) -> Any:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})[0]


class Packed(nn.Module):
    """A linear layer as GPTQ and AWQ keep it: codes and scales in buffers, no parameter."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        scale = plain.weight.detach().abs().amax() / 7
        self.register_buffer("scales", scale)
        self.register_buffer("qweight", (plain.weight.detach() / scale).round().to(torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.qweight * self.scales).T


PARTS: dict[str, tuple[Callable[[nn.Linear], Any], str]] = {
    "scripted": (torch.jit.script, "it is a TorchScript module"),
    "quantised": (quantised, "it is quantised"),
    "packed": (Packed, r"its weight is kept in codes \(qweight\) of a library that isn't served"),
    "a tensor of its own kind": (strange, "its weight is a Strange, no plain parameter"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_foreign_part_is_refused_unless_it_is_excluded(part: str) -> None:
    change, why = PARTS[part]
    network = nn.Sequential(nn.Linear(4, 4), change(nn.Linear(4, 4)))
    with pytest.raises(UnsupportedLayer, match=rf"^1 \(\w+\): {why}"):
        plan(network)
    assert [site.key for site in plan(network, exclude=["1"]).sites] == ["0"]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_network_is_refused_wherever_it_is(wrap: Callable[[nn.Module], nn.Module]) -> None:
    for network in (wrap(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), wrap(nn.Linear(4, 4)))):
        with pytest.raises(PlanError, match=r"`adapt` gives|`\.module`"):
            plan(network)


def test_a_network_without_values_is_planned_and_not_adapted() -> None:
    network = nn.Bilinear(4, 4, 4, device="meta")
    network.head = nn.Linear(4, 2, device="meta")
    assert len(plan(network).sites) == 1
    with pytest.raises(PlanError, match=r"^weight is on the meta device"):
        adapt(network, {"a": "4", "b": "4"})
    assert not any("forward" in vars(module) or module._forward_hooks for module in network.modules())
