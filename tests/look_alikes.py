"""Layer classes that look alike and compute differently, and a network that holds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


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
