"""Norm: train the affine pair of the normalisation layers (compared in arXiv 2310.03986)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from subsense.adapters.base import Mix, Shapes, weighted_sum, zeros
from subsense.adapters.channels import flat_channels
from subsense.adapters.layers.kinds import NORM
from subsense.adapters.layers.layer import Layer
from subsense.adapters.regression import Normal, Problem, Solution


@dataclass(frozen=True)
class Norm:
    """Norm: ``w' = w + weight`` and ``b' = b + bias`` in every normalisation layer that has an affine pair.

    >>> Norm().name
    'norm'
    """

    name: ClassVar[str] = "norm"
    added: ClassVar[str | None] = "bias"

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve normalisation layers that have a weight, and nothing behind it."""
        return layer.kind == NORM and layer.weight.parameter(module) is not None and not layer.seen

    def parameters(self, layer: Layer) -> Shapes:
        """Name the differences of weight and, where its class has one, bias."""
        return {"weight": layer.features} | ({"bias": layer.features} if layer.bias else {})

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> None:
        """Say that it does more than scale and shift channels."""

    def start(self, name: str, bank: Tensor, generator: torch.Generator) -> None:
        """Start at zero: the identity."""
        bank.zero_()

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Add the normalised input times the weight's difference, and the bias's difference."""
        adapted = y + _normalised(layer, module, x) * mix.blend(bank["weight"], y, layer.axis)
        shifted = adapted + mix.blend(bank["bias"], y, layer.axis) if "bias" in bank else adapted
        return shifted.to(y.dtype)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Add up the bank rows."""
        return weighted_sum(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Add the differences."""
        if "bias" not in row:
            return weight + row["weight"], bias
        return weight + row["weight"], row["bias"] if bias is None else bias + row["bias"]

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor, y: Tensor) -> tuple[Tensor, int]:
        """Give the normalised input: each channel is a group of its own."""
        return flat_channels(_normalised(layer, module, x), layer), layer.channels

    def rest(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give zeros."""
        return zeros(rows)

    def solve(self, problem: Problem) -> Solution:
        """Regress what is left of each channel on the normalised input."""
        normal = Normal.of(problem.moments, problem.weights, problem.ridge, "bias" in problem.rows)
        theta = normal.solve()
        found = {"weight": theta[:, :, 0, 0].T} | ({"bias": normal.shift(theta)} if "bias" in problem.rows else {})
        return Solution({name: values.unflatten(1, problem.layer.features) for name, values in found.items()})


def _normalised(layer: Layer, module: nn.Module, x: Tensor) -> Tensor:
    plain = {}
    for slot, value in ((layer.weight, 1.0 - layer.offset), (layer.bias, 0.0)):
        parameter = slot.parameter(module) if slot else None
        if slot and parameter is not None:
            plain[slot.name] = torch.full_like(parameter, value)
    normalised: Tensor = functional_call(module, plain, (x,))
    return normalised
