"""LoRA: a low-rank difference of the weight (arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from subsense.adapters.base import Mix, Shapes
from subsense.adapters.layers.layer import Layer
from subsense.adapters.low_rank import Factors, solve_low_rank
from subsense.adapters.regression import Normal, Problem, Solution
from subsense.errors import PlanError

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class LoRA:
    """LoRA: ``h' = W x + (alpha / rank) B A x`` at linear layers, convolutions and attention projections.

    The factors of all bank rows are stacked, so that one pass serves a batch whose rows use different ones: the
    rank-wide middle is multiplied by each row's weights. ``A`` starts as in the paper's code, ``B`` at zero.

    Args:
        rank: width of the middle, for each bank row.
        alpha: numerator of the factor before ``B A``; None: `rank`, so that the factor is 1.

    >>> LoRA(rank=4, alpha=8).factor
    2.0
    """

    rank: int = 4
    alpha: float | None = None
    name: ClassVar[str] = "lora"
    added: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise PlanError(f"LoRA: expected rank to be an integer above 0, but found {self.rank!r}")
        alpha = 1 if self.alpha is None else self.alpha
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
            raise PlanError(f"LoRA: expected alpha to be a number above 0, or None, but found {self.alpha!r}")

    @property
    def factor(self) -> float:
        """Give alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve layers that multiply by a matrix."""
        return layer.kind != "norm"

    def parameters(self, layer: Layer) -> Shapes:
        """Name the factors: down is A, up is B."""
        shape = layer.weight.shape
        if layer.kind == "transposed":
            return {"down": (self.rank, shape[0]), "up": (self.rank, layer.channels, *shape[2:])}
        inputs = shape[1:] if layer.out_axis == 0 else shape[:1]
        return {"down": (self.rank, *inputs), "up": (self.rank, layer.channels)}

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> None:
        """Say that it does more than scale and shift channels."""

    def start(self, name: str, bank: Tensor, generator: torch.Generator) -> None:
        """Draw A as `nn.Linear` draws its weight; B starts at zero."""
        if name == "down":
            bound = 1 / math.sqrt(bank[0, 0].numel())
            bank.uniform_(-bound, bound, generator=generator)
        else:
            bank.zero_()

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Add the low-rank path to the output."""
        down, up = (mix.rows(bank[name]).to(x.dtype) for name in ("down", "up"))
        path = {"linear": _linear, "conv": _conv, "transposed": _transposed}[layer.kind]
        return (y + self.factor * path(layer, module, down, up, mix, x, y)).to(y.dtype)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Put the factors of the bank rows side by side, so that their products add up."""
        weighted = torch.einsum("r,r...->r...", weights.to(rows["up"]), rows["up"])
        return {"down": rows["down"].flatten(0, 1), "up": weighted.flatten(0, 1)}

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Add the low-rank difference to the weight."""
        down, up = row["down"], row["up"]
        if layer.kind == "transposed":
            difference = _transposed_difference(layer, down, up)
        else:
            difference = (up.T @ down.flatten(1)).unflatten(1, down.shape[1:])
        return weight + self.factor * (
            difference if layer.kind != "linear" or layer.out_axis == 0 else difference.T
        ), bias

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor, y: Tensor) -> tuple[Tensor, int]:
        """Give the layer's own output; at grouped and transposed convolutions, patches of its input."""
        if layer.kind == "transposed":
            return _spread_patches(layer, module, x, own), layer.groups
        if layer.groups > 1:
            return _patches(layer, module, x), layer.groups
        return own, 1

    def rest(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give B of zeros; A stays, so that training can begin."""
        return {"down": rows["down"], "up": torch.zeros_like(rows["up"])}

    def solve(self, problem: Problem) -> Solution:
        """Regress what is left on the basis, cut to the rank."""
        moments = problem.moments
        bias = problem.layer.bias.read(problem.module) if problem.layer.bias else None
        if bias is not None and problem.layer.groups == 1 and problem.layer.kind != "transposed":
            moments = [one.moved(bias.detach().double()[None]) for one in moments]  # A and B don't act on the bias
        normal = Normal.of(moments, problem.weights, problem.ridge, problem.shifts)
        rank = min(self.rank, problem.rank or self.rank)
        factors, theta = solve_low_rank(normal, problem.layer, rank)
        rows = {name: bank.double() for name, bank in problem.rows.items()}
        rows["up"] = torch.zeros_like(rows["up"])
        for row, found in enumerate(factors):
            self._put(problem, found, rows["down"][row], rows["up"][row])
        return Solution(rows, normal.shift(theta) if problem.shifts else None, idle=not theta.any())

    def _put(self, problem: Problem, found: Factors, down: Tensor, up: Tensor) -> None:
        """Write the factors of one bank row; where there are fewer than the rank, the start of the others stays."""
        if not found.theta.any():
            return
        layer, outer = problem.layer, found.outer / self.factor
        num = found.inner.shape[-1]
        if layer.kind == "transposed":
            down[:num] = found.inner.permute(2, 0, 1).flatten(1)
            places = outer.unflatten(1, (num, -1)).permute(1, 0, 3, 2)
            up[:num] = places.flatten(1, 2).view_as(up[:num])
            return
        inner = found.inner[0].T
        if layer.groups == 1:
            weight = layer.weight.read(problem.module)
            assert weight is not None
            inner = inner @ weight.detach().double().movedim(layer.out_axis, 0).flatten(1)
        down[:num] = inner.view_as(down[:num])
        up[:num] = outer.transpose(0, 1).flatten(1)


def _patches(layer: Layer, module: nn.Module, x: Tensor) -> Tensor:
    """Give what each output position of a convolution sees of each group: (..., group * feature, ...)."""
    size = layer.weight.shape[1:]
    features = math.prod(size)
    every = torch.eye(features, dtype=x.dtype, device=x.device).view(features, *size)
    return _through(module, x, every.repeat(layer.groups, *[1] * len(size)))


def _spread_patches(layer: Layer, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Give what each output position of a transposed convolution gets by each place of its kernel."""
    assert isinstance(module, _ConvNd)
    inputs, kernel = layer.weight.shape[0] // layer.groups, layer.weight.shape[2:]
    features = inputs * math.prod(kernel)
    every = torch.eye(features, dtype=x.dtype, device=x.device).view(features, inputs, *kernel).transpose(0, 1)
    spread = _TRANSPOSED[len(kernel)]
    where = module.stride, module.padding, _output_padding(module, x, y), layer.groups, module.dilation
    return spread(x, every.repeat(layer.groups, 1, *[1] * len(kernel)), None, *where)


def _linear(layer: Layer, module: nn.Module, down: Tensor, up: Tensor, mix: Mix, x: Tensor, y: Tensor) -> Tensor:
    middle = F.linear(x, down.flatten(0, 1))
    gated = middle * mix.gates(middle, -1, down.shape[1])
    return F.linear(gated, up.flatten(0, 1).T)


def _conv(layer: Layer, module: nn.Module, down: Tensor, up: Tensor, mix: Mix, x: Tensor, y: Tensor) -> Tensor:
    assert isinstance(module, _ConvNd)
    stacked = down.flatten(0, 1)
    middle = _through(module, x, stacked.repeat(layer.groups, *[1] * (stacked.dim() - 1)))
    gated = middle * mix.gates(middle, layer.axis, down.shape[1], layer.groups)
    return _pointwise(module, gated, up.flatten(0, 1).T, layer.groups)


def _transposed(layer: Layer, module: nn.Module, down: Tensor, up: Tensor, mix: Mix, x: Tensor, y: Tensor) -> Tensor:
    assert isinstance(module, _ConvNd)
    grouped = down.unflatten(2, (layer.groups, -1)).permute(2, 0, 1, 3).flatten(0, 2)
    middle = _pointwise(module, x, grouped, layer.groups)
    gated = middle * mix.gates(middle, layer.axis, down.shape[1], layer.groups)
    weight = up.unflatten(2, (layer.groups, -1)).movedim(2, 0).flatten(0, 2)
    spread = _TRANSPOSED[len(module.kernel_size)]
    return spread(
        gated, weight, None, module.stride, module.padding, _output_padding(module, x, y), layer.groups, module.dilation
    )


def _through(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    output: Tensor = module._conv_forward(x, weight, None)
    return output


def _pointwise(module: _ConvNd, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    spatial = len(module.kernel_size)
    return _CONV[spatial](x, weight.reshape(*weight.shape, *[1] * spatial), groups=groups)


def _output_padding(module: _ConvNd, x: Tensor, y: Tensor) -> list[int]:
    spatial = len(module.kernel_size)
    geometry = zip(
        x.shape[-spatial:],
        y.shape[-spatial:],
        module.stride,
        module.padding,
        module.dilation,
        module.kernel_size,
        strict=True,
    )
    return [
        found - ((size - 1) * stride - 2 * int(padding) + dilation * (kernel - 1) + 1)
        for size, found, stride, padding, dilation, kernel in geometry
    ]


def _transposed_difference(layer: Layer, down: Tensor, up: Tensor) -> Tensor:
    inputs = down.unflatten(1, (layer.groups, -1))
    outputs = up.unflatten(1, (layer.groups, -1))
    return torch.einsum("rgi,rgo...->gio...", inputs, outputs).flatten(0, 1)
