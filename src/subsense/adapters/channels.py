"""What the methods that scale and shift the channels of an output share: the contract follows from their pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from subsense.adapters.affine import affine
from subsense.adapters.base import Mix, scale_outputs, weighted_sum
from subsense.adapters.layers.layer import Layer

Pair = tuple[Tensor | None, Tensor | None]
"""gamma and beta of ``gamma y + beta``; None leaves that half out."""


class ByChannel(ABC):
    """Be a method that makes ``gamma y + beta`` of an output y, with a number of each for every channel."""

    @abstractmethod
    def pair(self, row: Mapping[str, Tensor]) -> Pair:
        """Give gamma and beta, shaped as the parameters are."""

    def start(self, name: str, bank: Tensor, generator: torch.Generator) -> None:
        """Start at zero: the identity."""
        bank.zero_()

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Scale and shift the output."""
        gamma, beta = self.pair({name: mix.blend(one, y, layer.axis) for name, one in bank.items()})
        return affine(x, y, gamma, beta, mix.recall)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Add up the bank rows."""
        return weighted_sum(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Scale weight and bias, then shift."""
        gamma, beta = self.pair(row)
        return weight if gamma is None else scale_outputs(layer, weight, gamma), then((None, bias), (gamma, beta))[1]


def then(first: Pair, second: Pair) -> Pair:
    """Give the pair that does what two do in turn.

    >>> then((torch.tensor(2.0), torch.tensor(1.0)), (torch.tensor(3.0), None))
    (tensor(6.), tensor(3.))
    """
    (gamma, beta), (scale, shift) = first, second
    if scale is not None:
        gamma, beta = scale if gamma is None else gamma * scale, None if beta is None else beta * scale
    if shift is not None:
        beta = shift if beta is None else beta + shift
    return gamma, beta
