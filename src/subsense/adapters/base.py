"""The contract of an adapter: plain options, and pure functions of them; see docs/write-your-adapter.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from subsense.adapters.affine import Recall
from subsense.adapters.layers.layer import Layer
from subsense.adapters.regression import Problem, Solution

Shapes = dict[str, tuple[int, ...]]
Pair = tuple[Tensor | None, Tensor | None]
"""gamma and beta of ``gamma y + beta``; None leaves that half out."""


class Mix(Protocol):
    """Say how much of each bank row each row of the batch uses, at the place where a layer's output has its batch."""

    @property
    def recall(self) -> Recall | None:
        """Say how the backward pass may get back what the adapter was given."""
        ...

    def recalling(self, recall: Recall | None) -> Mix:
        """Give the same mix with another recall."""
        ...

    def common(self) -> Mix:
        """Give the mix of banks whose one row all incomplete combinations share; see `subsense.adapters.common`."""
        ...

    def blend(self, bank: Tensor, like: Tensor, axis: int) -> Tensor:
        """Give `spread` of `pick`: a bank (bank row, *features) for each batch row, broadcastable to `like`."""
        ...

    def pick(self, bank: Tensor) -> Tensor:
        """Mix a bank (bank row, ...) for each batch row: (batch, ...), or (1, ...) where they are alike."""
        ...

    def spread(self, values: Tensor, like: Tensor, axis: int) -> Tensor:
        """Shape values of each batch row (row, *features), to broadcast to `like`, features from `axis` on."""
        ...

    def vector(self, bank: Tensor) -> Tensor:
        """Mix a bank (bank row, *features) for a batch whose rows are alike: (*features)."""
        ...

    def rows(self, bank: Tensor) -> Tensor:
        """Give the bank rows that matter for this batch: (active row, ...)."""
        ...

    @property
    def weights(self) -> Tensor:
        """Give the weights of `rows`, for a batch whose rows are alike: (active row,)."""
        ...

    def gates(self, like: Tensor, axis: int, rank: int, repeats: int = 1) -> Tensor:
        """Give each batch row's weights of the active rows, each `rank` times in a row, all of it `repeats` times."""
        ...


class Route(Protocol):
    """Lead through the sites in one forward."""

    @property
    def uniform(self) -> bool:
        """Say whether all rows of the batch are alike."""
        ...

    def pick(self, banks: Sequence[Tensor]) -> None:
        """Mix these banks at once, before any site is visited."""
        ...

    def replayed(self) -> Route:
        """Give the route for parts of the same forward that a backward pass runs again."""
        ...

    def visit(self, site: str, recall: Recall | None = None) -> Mix:
        """Begin one call of a site, and say how its banks are mixed."""
        ...


class Adapter(Protocol):
    """Be what one method does at one site.

    An adapter is a frozen dataclass of its options (numbers, words, None), which are saved with what it trains. Its
    parameters are differences from the identity, so zeros change nothing, sums make sense, and weight decay pulls to
    the untouched network. `merge` and `fold` are differentiable: normalisation layers are trained through them.
    """

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Say whether the method acts at layers of this kind."""
        ...

    def parameters(self, layer: Layer) -> Shapes:
        """Name the parameters of one bank row, with their shapes; raise `UnsupportedLayer` where it can't be right."""
        ...

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair | None:
        """Give gamma and beta (..., *features), where ``gamma y + beta`` of an output y is all that the method does.

        Such a method can be taken into a layer's weight and bias, which is faster. What it answers depends on the
        layer alone: a pair, or None.

        Args:
            layer: the layer.
            row: the parameters (..., *shape) of one set, or of several along the first axes.
        """
        ...

    def start(self, name: str, bank: Tensor, generator: torch.Generator) -> None:
        """Set one parameter of all bank rows, (bank row, ...), to its start."""
        ...

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Give the layer's adapted output from its input `x` and its output `y`."""
        ...

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Make one adapter set of bank rows (row, ...) and their weights (row,)."""
        ...

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Give the weight and bias of a plain layer that does the same as layer and adapter set."""
        ...

    @property
    def added(self) -> str | None:
        """Name the parameter that is simply added to the output; None where the method has none."""
        ...

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor, y: Tensor) -> tuple[Tensor, int]:
        """Give what the effect on the output is linear in, and in how many groups of channels.

        Args:
            layer, module: the layer.
            x: its input.
            own: its own output.
            y: what the adapter is given: that output, adapted by the methods before.

        Returns:
            A tensor shaped as the output, but with (group * feature) channels in the place of the features, flat.
        """
        ...

    def rest(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give bank rows (row, ...) that do nothing, as near to these as can be."""
        ...

    def solve(self, problem: Problem) -> Solution:
        """Give bank rows that bring the output nearest to its goal in the least squares."""
        ...


Sets = Sequence[tuple[Adapter, Mapping[str, Tensor]]]
"""The adapters of a site in turn, each with the set that all rows of a batch have."""


def weighted_sum(rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """Merge parameters which add up: (row, ...) and weights (row,)."""
    return {name: torch.einsum("r,r...->...", weights.to(bank), bank) for name, bank in rows.items()}


def zeros(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give rows of zeros."""
    return {name: torch.zeros_like(bank) for name, bank in rows.items()}
