"""Layers whose weight is made of others (weight norm, spectral norm, orthogonal): served, and plain once folded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import subsense as ss
from subsense.adapters.layers.computed import made_of, make_plain

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, other axis": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight norm, the old one": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, the old one": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


class Net(nn.Module):
    def __init__(self, way: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv = way(nn.Conv1d(4, 4, 3, padding=1, groups=2))
        self.linear = way(nn.Linear(4, 3, bias=False))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(self.conv(a + 2 * b).mT)


@pytest.mark.parametrize("way", WAYS)
def test_its_adapters_act_get_gradients_and_fold(way: str) -> None:
    torch.manual_seed(0)
    network = Net(WAYS[way])
    state = {name: one.clone() for name, one in network.state_dict().items()}
    robust = ss.adapt(network, {"a": "4 5", "b": "4 5"}, method=["ssf", "lora"], sharing="additive")
    assert robust.plan.out_of_reach == {}
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.normal_(std=0.3)
    robust.mark_trained("all")
    x = {"a": torch.randn(3, 4, 5), "b": torch.randn(3, 4, 5)}
    present = torch.tensor([[True, False], [False, True], [True, True]])
    together = robust(x, present)
    alone = torch.cat([robust({k: v[i : i + 1] for k, v in x.items()}, present[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    together.square().sum().backward()
    plain = Net(WAYS[way])
    plain.load_state_dict(state)
    for module in (plain.conv, plain.linear):
        make_plain(module.eval())
    other = ss.adapt(plain, {"a": "4 5", "b": "4 5"}, method=["ssf", "lora"], sharing="additive")
    other.banks.load_state_dict(robust.banks.state_dict())
    other.train()(x, present).square().sum().backward()
    for one, two in zip(robust.banks.parameters(), other.banks.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-4, rtol=1e-4)
    folded = ss.fold(robust.eval(), "a")
    args, kwargs = ss.prepare(robust, {"a": x["a"]})
    with torch.no_grad():
        torch.testing.assert_close(folded(*args, **kwargs), robust({"a": x["a"]}), atol=1e-5, rtol=1e-4)
    assert type(folded.conv) is nn.Conv1d
    assert made_of(folded.conv) == ()
    after = robust.detach().state_dict()
    assert all(torch.equal(one, after[name]) for name, one in state.items())


def test_planning_in_training_mode_counts_no_power_iteration() -> None:
    network = Net(parametrizations.spectral_norm).train()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    ss.plan(network)
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
