"""Hooks go on, act in the right order, come off; and what they can't be right in is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import TOWERS, Sequences, Towers
from subsense import RobustModel

LEFT = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
SEQUENCES = {"words": "6 5", "sound": "6 7"}


def stirred(network: nn.Module, spec: dict[str, str] = TOWERS, **options: Any) -> RobustModel:
    robust = ss.adapt(network, spec, **options)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.normal_(std=0.3)
    robust.mark_trained(robust.combinations)
    return robust.eval()


class Overwriting(Towers):
    """Overwrite what layers give, as residual networks do, or don't."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        mixed, other = self.left(left), self.right(right)
        mixed = mixed.add_(other) if self.in_place else mixed + other
        return self.head(nn.functional.relu(self.norm(mixed), inplace=self.in_place))


def test_a_hook_of_the_network_itself_acts_after_the_adapter_as_on_the_folded_network() -> None:
    network = Towers()
    network.left.register_forward_hook(lambda layer, args, output: output.clamp(min=0) ** 2)
    robust = stirred(network, method=["ssf", "lora"])
    with torch.no_grad():
        torch.testing.assert_close(ss.fold(robust, "left")(LEFT, torch.zeros(3, 6)), robust({"left": LEFT}))


def test_the_same_hooks_go_on_again_after_a_call_without_adapters() -> None:
    robust = stirred(Sequences(), SEQUENCES)
    attention = robust.network.encoder.layers[0].self_attn
    before = attention.forward, [list(layer._forward_hooks.values()) for layer in robust.network.modules()]
    with torch.no_grad():
        robust({"words": torch.randn(2, 6, 5), "sound": torch.randn(2, 6, 7)})
    assert attention.forward is before[0]
    assert [list(layer._forward_hooks.values()) for layer in robust.network.modules()] == before[1]


def test_detaching_twice_is_detaching_once() -> None:
    robust = stirred(Sequences(), SEQUENCES)
    assert robust.detach() is robust.detach()
    assert not any(layer._forward_hooks or "forward" in vars(layer) for layer in robust.network.modules())


@pytest.mark.parametrize("method", ["ssf", "scale", "shift", "bitfit", "norm", "lora"])
def test_networks_may_overwrite_what_a_layer_gives(method: str) -> None:
    robust = stirred(Overwriting(in_place=True), method=method).train()
    other = copy.deepcopy(robust)
    other.network.in_place = False
    for model in (robust, other):
        model({"left": LEFT}).square().sum().backward()
    for one, same in zip(robust.adapter_parameters().values(), other.adapter_parameters().values(), strict=True):
        torch.testing.assert_close(one.grad, same.grad)


def test_scaling_and_shifting_keep_one_tensor_for_the_backward_pass() -> None:
    robust = stirred(nn.Conv2d(2, 4, 3), {"left": "1 H W", "right": "1 H W"}, call="channels").train()
    robust({"left": torch.randn(2, 1, 32, 32)})  # the first forward learns what may be assumed, in a graph of its own
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = robust({"left": torch.randn(2, 1, 32, 32)})
    assert [size for size in kept.values() if size >= output.numel()] == [output.numel()]
