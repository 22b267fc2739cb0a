"""LoRA: a low-rank difference of the weight (arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subsense.adapters.base import Mix, Shapes
from subsense.adapters.layers.layer import Layer
from subsense.adapters.low_rank import Factors, solve_low_rank
from subsense.adapters.products import Product
from subsense.adapters.regression import Normal, Problem, Solution
from subsense.errors import PlanError


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
    least: ClassVar[float] = 0.01

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
        return layer.kind.product is not None

    def parameters(self, layer: Layer) -> Shapes:
        """Name the factors: down is A, up is B."""
        down, up = _product(layer).shapes(layer, self.rank)
        return {"down": down, "up": up}

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
        path = _product(layer).path(layer, module, down, up, mix, x, y)
        return (y + self.factor * path).to(y.dtype)

    def merge(self, rows: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Put the factors of the bank rows side by side, so that their products add up."""
        weighted = torch.einsum("r,r...->r...", weights.to(rows["up"]), rows["up"])
        return {"down": rows["down"].flatten(0, 1), "up": weighted.flatten(0, 1)}

    def fold(
        self, layer: Layer, row: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Add the low-rank difference to the weight."""
        return weight + self.factor * _product(layer).difference(layer, row["down"], row["up"]), bias

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor, y: Tensor) -> tuple[Tensor, int]:
        """Give the layer's own output; at grouped and transposed convolutions, patches of its input."""
        return _product(layer).basis(layer, module, x, own)

    def rest(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give B of zeros; A stays, so that training can begin."""
        return {"down": rows["down"], "up": torch.zeros_like(rows["up"])}

    def solve(self, problem: Problem) -> Solution:
        """Regress what is left on the basis, cut to the rank."""
        moments = problem.moments
        bias = problem.layer.bias.read(problem.module) if problem.layer.bias else None
        product = _product(problem.layer)
        if bias is not None and product.is_own(problem.layer):
            moments = [one.moved(bias.detach().double()[None]) for one in moments]  # A and B don't act on the bias
        normal = Normal.of(moments, problem.weights, problem.ridge, problem.shifts)
        rank = min(self.rank, problem.rank or self.rank)
        factors, theta = solve_low_rank(normal, product.cut(problem.layer), rank)
        rows = {name: bank.double() for name, bank in problem.rows.items()}
        rows["up"] = torch.zeros_like(rows["up"])
        if normal.gain(theta) < self.least:
            theta, factors = torch.zeros_like(theta), []
        for row, found in enumerate(factors):
            self._put(problem, found, rows["down"][row], rows["up"][row])
        return Solution(rows, normal.shift(theta) if problem.shifts else None, idle=not theta.any())

    def _put(self, problem: Problem, found: Factors, down: Tensor, up: Tensor) -> None:
        """Write the factors of one bank row; where there are fewer than the rank, the start of the others stays."""
        if not found.theta.any():
            return
        weight = problem.layer.weight.read(problem.module)
        assert weight is not None
        inner, outer = _product(problem.layer).factors(problem.layer, weight.detach().double(), found)
        num = len(inner)
        down[:num] = inner.view_as(down[:num])
        up[:num] = outer.view_as(up[:num]) / self.factor


def _product(layer: Layer) -> Product:
    assert layer.kind.product is not None  # see `LoRA.serves`
    return layer.kind.product
