"""Layer classes that look alike and compute differently are told apart before anything is folded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from look_alikes import RIGHT, WRONG, Base, Net, made


def adapt(cls: type[Base], method: str = "ssf") -> ss.RobustModel:
    bias = "bias" if cls.has_bias else None
    declared = ss.LayerClass(cls, kind="norm", axis=cls.axis, bias=bias)
    shape = "6 5" if cls.axis == 1 else "5 6"
    robust = ss.adapt(Net(cls(), cls.axis), {"left": shape, "right": shape}, method=method, layers=[declared])
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.copy_(torch.randn(bank.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    robust.mark_trained("all")
    return robust.eval()


@pytest.mark.parametrize("method", ["ssf", "scale", "norm"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_layer_that_follows_is_served_and_folds_right(name: str, method: str) -> None:
    cls, by = RIGHT[name]
    robust = adapt(cls, method)
    (site,) = (site for site in robust.plan.sites if site.layer.path == "layer")
    assert site.layer.offset == by
    x = {"left": torch.randn(4, *((6, 5) if cls.axis == 1 else (5, 6)))}
    args, kwargs = ss.prepare(robust, x)
    with torch.no_grad():
        assert torch.allclose(ss.fold(robust, "left")(*args, **kwargs), robust(x), atol=1e-5)


@pytest.mark.parametrize("name", WRONG)
def test_a_layer_that_does_not_follow_is_refused(name: str) -> None:
    with pytest.raises(ss.UnsupportedLayer, match=r"layer \(\w+\): declared as 'norm' .* but it.*exclude it"):
        adapt(WRONG[name])


def test_the_wrong_axis_is_refused() -> None:
    square = made("Square", axis=1)
    with pytest.raises(ss.UnsupportedLayer, match=r"has no 6 channels there|another axis"):
        ss.plan(Net(square()), layers=[ss.LayerClass(square, kind="norm", axis=2)])


class Multiplying(nn.Module):
    """A linear layer of its own."""

    def __init__(self, turned: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.bias = nn.Parameter(torch.randn(6))
        self.turned, self.factor = turned, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * (x @ (self.weight if self.turned else self.weight.T)) + self.bias


@pytest.mark.parametrize("turned", [False, True])
def test_a_linear_layer_multiplies_as_declared(turned: bool) -> None:
    network = Net(Multiplying(turned))
    declared = [ss.LayerClass(Multiplying, kind="linear", axis=-1, out_axis=int(turned))]
    assert "Multiplying" in str(ss.plan(network, "lora", layers=declared))
    other = [ss.LayerClass(Multiplying, kind="linear", axis=-1, out_axis=int(not turned))]
    with pytest.raises(ss.UnsupportedLayer, match=r"isn't its input times its 'weight'|isn't scaled as"):
        ss.plan(network, "lora", layers=other)


def test_a_linear_layer_with_a_factor_is_refused() -> None:
    with pytest.raises(ss.UnsupportedLayer, match="isn't its input times its 'weight'"):
        ss.plan(Net(Multiplying(factor=0.5)), "lora", layers=[ss.LayerClass(Multiplying, kind="linear", axis=-1)])


def test_the_network_and_the_callers_random_state_stay() -> None:
    network = Net(Base())
    calls: list[Any] = []
    network.layer.register_forward_hook(lambda *_: calls.append(1))
    before, state = {name: x.clone() for name, x in network.state_dict().items()}, torch.get_rng_state()
    ss.plan(network, layers=[ss.LayerClass(Base, kind="norm", axis=-1)])
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert calls == []
    assert network.training


def test_gemmas_norm_folds_right() -> None:
    modeling = pytest.importorskip("transformers.models.gemma.modeling_gemma")
    network = Net(modeling.GemmaRMSNorm(6))
    torch.nn.init.normal_(network.layer.weight, std=0.3)
    robust = ss.adapt(network, {"left": "5 6", "right": "5 6"},
                      layers=[ss.LayerClass(modeling.GemmaRMSNorm, kind="norm", axis=-1, bias=None)])  # fmt: skip
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.normal_(std=0.3)
    robust.mark_trained("all")
    x = {"left": torch.randn(4, 5, 6)}
    args, kwargs = ss.prepare(robust, x)
    with torch.no_grad():
        assert torch.allclose(ss.fold(robust, "left")(*args, **kwargs), robust.eval()(x), atol=1e-5)
