"""What the methods that scale and shift the channels of an output share: the contract follows from their pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from subsense.adapters.affine import affine
from subsense.adapters.base import Mix, Pair, weighted_sum, zeros
from subsense.adapters.layers.layer import Layer
from subsense.adapters.regression import Normal, Problem, Solution
from subsense.errors import PlanError


class ByChannel(ABC):
    """Be a method that makes ``gamma y + beta`` of an output y, with a number of each for every channel.

    A subclass says where it acts (`serves`), what it trains (`parameters`) and what gamma and beta are (`pair`); see
    `subsense.adapters.base.Adapter`.

    Attributes:
        scaled, added: names of the parameters, one number for each channel, that multiply and that are added, so that
            they can be solved in closed form; None: the method has none.
    """

    scaled: ClassVar[str | None] = None
    added: ClassVar[str | None] = None

    @abstractmethod
    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair:
        """Give gamma and beta (..., *features) of parameters (..., *shape)."""

    def start(self, name: str, bank: Tensor, generator: torch.Generator) -> None:
        """Start at zero: the identity."""
        bank.zero_()

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Scale and shift the output."""
        pair = self.pair(layer, {name: mix.pick(one) for name, one in bank.items()})
        gamma, beta = (None if one is None else mix.spread(one, y, layer.axis) for one in pair)
        return affine(x, y, gamma, beta, mix.recall)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Add up the bank rows."""
        return weighted_sum(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Scale weight and bias, then shift."""
        gamma, beta = self.pair(layer, row)
        scaled = weight if gamma is None else layer.kind.scale(layer, weight, gamma)
        return scaled, then((None, bias), (gamma, beta))[1]

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor, y: Tensor) -> tuple[Tensor, int]:
        """Give the output: each channel is a group of its own."""
        return flat_channels(y, layer), layer.channels

    def rest(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give zeros."""
        return zeros(rows)

    def solve(self, problem: Problem) -> Solution:
        """Regress what is left of each channel on it: scale and shift, or what of them there is."""
        self._check_plain(problem)
        shifts = self.added in problem.rows
        normal = Normal.of(problem.moments, problem.weights, problem.ridge, shifts)
        theta = normal.solve() if self.scaled else torch.zeros_like(normal.right)
        found = ((self.scaled, theta[:, :, 0, 0].T), (self.added, normal.shift(theta) if shifts else None))
        return Solution({
            name: values.unflatten(1, problem.layer.features)
            for name, values in found
            if name is not None and values is not None
        })  # fmt: skip

    def _check_plain(self, problem: Problem) -> None:
        """Raise `PlanError` where gamma isn't 1 + `scaled` or beta isn't `added`, which is what is solved."""
        half = {name: torch.full_like(rows[0], 0.5) for name, rows in problem.rows.items()}
        scale, shift = (half.get(name or "") for name in (self.scaled, self.added))
        expected = None if scale is None else 1 + scale, shift
        found = self.pair(problem.layer, half)
        if not all(one is other or _equal(one, other) for one, other in zip(found, expected, strict=True)):
            raise PlanError(
                f"method {type(self).__name__} can't be calibrated, since its pair isn't 1 + `scaled` and `added`, "
                "parameters of one number for each channel; train it, or give it a `solve` of its own"
            )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def flat_channels(y: Tensor, layer: Layer) -> Tensor:
    """Bring features that take several axes onto one."""
    axis = layer.axis % y.dim()
    return y.flatten(axis, axis + len(layer.features) - 1)


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
