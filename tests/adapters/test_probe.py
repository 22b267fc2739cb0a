"""Layer classes that look alike and compute differently are told apart before anything is folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss


class Base(nn.Module):
    """Hold a weight and a bias, and normalise over the last axis."""

    size, axis, eps, has_bias = 6, -1, 1e-5, True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, self.size))
        self.bias = nn.Parameter(torch.linspace(-1.0, 1.0, self.size)) if self.has_bias else None

    def normal(self, x: Tensor) -> Tensor:
        return (x - x.mean(self.axis, keepdim=True)) / (x.var(self.axis, keepdim=True, correction=0) + self.eps).sqrt()

    def along(self, vector: Tensor, x: Tensor) -> Tensor:
        shape = [1] * x.dim()
        shape[self.axis] = -1
        return vector.view(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.normal(x), x)

    def affine(self, normal: Tensor, x: Tensor) -> Tensor:
        scaled = normal * self.along(self.weight, x)
        return scaled if self.bias is None else scaled + self.along(self.bias, x)


def made(name: str, base: type[Base] = Base, **methods: Any) -> type[Base]:
    return type(name, (base,), methods)


def offset(by: float) -> Callable[..., Tensor]:
    def affine(self: Base, normal: Tensor, x: Tensor) -> Tensor:
        scaled = normal * (by + self.along(self.weight, x))
        return scaled if self.bias is None else scaled + self.along(self.bias, x)

    return affine


def rms(self: Base, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(self.axis, keepdim=True) + self.eps)


def after(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda self, x: function(Base.forward(self, x))


def running(self: Base, x: Tensor) -> Tensor:
    return (x - 0.3) / 1.7


def doubled(self: Base, normal: Tensor, x: Tensor) -> Tensor:
    return normal * self.along(self.weight, x) + 2 * self.along(self.bias, x)


def squared(self: Base, normal: Tensor, x: Tensor) -> Tensor:
    return normal * self.along(self.weight**2, x) + self.along(self.bias, x)


def exponential(self: Base, normal: Tensor, x: Tensor) -> Tensor:
    return normal * self.along(self.weight.exp(), x) + self.along(self.bias, x)


def before(self: Base, normal: Tensor, x: Tensor) -> Tensor:
    return (normal + self.along(self.bias, x)) * self.along(self.weight, x)


def reversed_(self: Base, normal: Tensor, x: Tensor) -> Tensor:
    return normal * self.along(self.weight.flip(0), x) + self.along(self.bias, x)


def averaged(self: Base, normal: Tensor, x: Tensor) -> Tensor:
    return normal * self.weight.mean() + self.along(self.bias, x)


def residual(self: Base, x: Tensor) -> Tensor:
    return x + Base.forward(self, x)


def noisy(self: Base, x: Tensor) -> Tensor:
    return Base.forward(self, x) + 1e-3 * torch.rand_like(x)


def without(self: Base, normal: Tensor, x: Tensor) -> Tensor:
    return normal * self.along(self.weight, x)


def clamped(x: Tensor) -> Tensor:
    return x.clamp(-0.5, 0.5)


FIRST = made("First", axis=1)
BARE = made("Bare", has_bias=False)

RIGHT: dict[str, tuple[type[Base], float]] = {
    "layer norm": (Base, 0.0),
    "channel-first": (FIRST, 0.0),
    "no bias": (BARE, 0.0),
    "root mean square": (made("RMS", BARE, normal=rms), 0.0),
    "eps outside": (made("Outside", normal=lambda self, x: x / (x.std(self.axis, keepdim=True) + 1e-3)), 0.0),
    "running statistics": (made("Running", normal=running), 0.0),
    "channel-first, running": (made("RunningFirst", FIRST, normal=running), 0.0),
    "1 + weight": (made("Gemma", BARE, normal=rms, affine=offset(1.0)), 1.0),
    "1 + weight, bias": (made("GemmaBias", affine=offset(1.0)), 1.0),
    "1 + weight, channel-first": (made("GemmaFirst", FIRST, affine=offset(1.0)), 1.0),
    "in float32 inside": (made("Upcast", normal=lambda self, x: Base.normal(self, x.float()).to(x.dtype)), 0.0),
}
WRONG: dict[str, type[Base]] = {
    "relu inside": made("Relu", forward=after(torch.relu)),
    "relu inside, no bias": made("BareRelu", BARE, forward=after(torch.relu)),
    "relu inside, channel-first": made("ReluFirst", FIRST, forward=after(torch.relu)),
    "gelu inside": made("Gelu", forward=after(nn.functional.gelu)),
    "silu inside": made("Silu", forward=after(nn.functional.silu)),
    "leaky relu inside": made("Leaky", forward=after(nn.functional.leaky_relu)),
    "tanh inside, 1 + weight": made("Tanh", affine=offset(1.0), forward=after(torch.tanh)),
    "clamped": made("Clamped", forward=after(clamped)),
    "twice the bias": made("Doubled", affine=doubled),
    "the weight squared": made("Squared", affine=squared),
    "the weight's exponential": made("Exponential", affine=exponential),
    "bias before the weight": made("Before", affine=before),
    "the weight turned round": made("Reversed", affine=reversed_),
    "the weight's mean": made("Averaged", affine=averaged),
    "its input added": made("Residual", forward=residual),
    "noise in eval mode": made("Noisy", forward=noisy),
    "a bias that it doesn't add": made("Without", affine=without),
    "0.5 + weight": made("Half", affine=offset(0.5)),
    "2 + weight": made("Two", BARE, affine=offset(2.0)),
    "its output halved": made("Halved", forward=after(lambda y: y / 2)),
    "its axes swapped": made("Swapped", forward=after(lambda y: y.transpose(-1, -2))),
}


class Net(nn.Module):
    """Add two inputs and give the sum to a layer, and to a linear one that is always a site."""

    def __init__(self, layer: nn.Module, axis: int = -1) -> None:
        super().__init__()
        self.layer, self.head, self.axis = layer, nn.Linear(6, 3), axis

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.layer(left + 2 * right).movedim(self.axis, -1))


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
