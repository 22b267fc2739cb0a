"""A method whose one bank row acts wherever anything is missing, whatever it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn

from subsense.adapters.base import Adapter, Mix, Pair, Shapes
from subsense.adapters.layers.layer import Layer
from subsense.adapters.regression import Problem, Solution
from subsense.errors import PlanError


@dataclass(frozen=True)
class Common:
    """Let all incomplete combinations share one set of a method, beside what is their own.

    With ``sharing="additive"``, a modality's row learns what its loss takes; what all losses have in common, which is
    most of what a small network lacks, is in each of these rows again. One row more, of a method with more to train,
    holds it once: its weight is 1 where anything is missing and 0 for the complete combination.

    Args:
        adapter: the method: an object such as ``LoRA(rank=8)``.
        include: patterns of module paths at which it acts, of those where the model has sites.

    Raises:
        PlanError: no method, or one that is `Common` itself.

    >>> from subsense.adapters import LoRA
    >>> Common(LoRA(rank=8), include=["encoder.*"])
    Common(adapter=LoRA(rank=8, alpha=None), include=('encoder.*',))
    """

    adapter: Adapter
    include: Iterable[str] = ("*",)
    name: ClassVar[str] = "common"

    def __post_init__(self) -> None:
        if isinstance(self.adapter, str | type | Common) or not hasattr(self.adapter, "apply"):
            raise PlanError(f"Common: expected a method's object such as LoRA(rank=8), but found {self.adapter!r}")
        if isinstance(self.include, str):
            raise PlanError(f"Common: include: expected a list of patterns; write [{self.include!r}]")
        object.__setattr__(self, "include", tuple(self.include))

    @property
    def added(self) -> str | None:
        """Give the method's."""
        return self.adapter.added

    def serves(self, layer: Layer, module: nn.Module) -> bool:
        """Serve what the method serves, where a pattern matches."""
        here = any(fnmatchcase(layer.path, pattern) for pattern in self.include)
        return here and self.adapter.serves(layer, module)

    def parameters(self, layer: Layer) -> Shapes:
        """Give the method's."""
        return self.adapter.parameters(layer)

    def pair(self, layer: Layer, row: Mapping[str, Tensor]) -> Pair | None:
        """Give the method's."""
        return self.adapter.pair(layer, row)

    def start(self, name: str, bank: Tensor, generator: torch.Generator) -> None:
        """Start as the method does."""
        self.adapter.start(name, bank, generator)

    def apply(
        self, layer: Layer, module: nn.Module, bank: Mapping[str, Tensor], mix: Mix, x: Tensor, y: Tensor
    ) -> Tensor:
        """Let the method act by its one row."""
        return self.adapter.apply(layer, module, bank, mix.common(), x, y)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Merge as the method does."""
        return self.adapter.merge(rows, weights)

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Fold as the method does."""
        return self.adapter.fold(layer, row, weight, bias)

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor, y: Tensor) -> tuple[Tensor, int]:
        """Give the method's."""
        return self.adapter.basis(layer, module, x, own, y)

    def rest(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rest as the method does."""
        return self.adapter.rest(rows)

    def solve(self, problem: Problem) -> Solution:
        """Solve as the method does, one row for all sets."""
        return self.adapter.solve(problem)


def is_common(adapter: Adapter) -> bool:
    """Say whether a method has one bank row for everything that is incomplete."""
    return isinstance(adapter, Common)


def inner(adapter: Adapter) -> Adapter:
    """Give the method that `Common` lets act, or a method as it is."""
    return adapter.adapter if isinstance(adapter, Common) else adapter


def num_rows_of(adapter: Adapter, num_rows: int) -> int:
    """Give how many bank rows a method has in a model with so many."""
    return 1 if is_common(adapter) else num_rows


def common_weights(weights: Tensor) -> Tensor:
    """Give the weight of a common row (..., 1) from those of the others (..., bank row).

    >>> common_weights(torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])).flatten()
    tensor([1., 1., 0.])
    """
    return weights.amax(-1, keepdim=True)
