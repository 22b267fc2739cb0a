"""Bank rows for the rows of a batch, of every bank at once.

In a training step each bank costs autograd several nodes, and a gradient for each of them that is mostly zeros. As one
node, all banks together cost little more than one did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.adapters.autograd import apply
from subsense.adapters.common import common_weights


@dataclass(frozen=True)
class Choice:
    """Say how much of each bank row each batch row uses.

    Attributes:
        weights: (batch, bank row), or (1, bank row) where all rows are alike.
        index: the one bank row of each batch row; only with independent sharing, 0 where it uses none.
        used: which batch rows use one, (batch,); None: all.
        row: the bank row that all rows use, where that is so; only with independent sharing.
    """

    weights: Tensor
    index: Tensor | None = None
    used: Tensor | None = None
    row: int | None = None

    def of(self, bank: Tensor) -> Tensor:
        """Mix a bank (bank row, *features): (batch, *features), or (1, *features) where all rows are alike.

        >>> Choice(torch.tensor([[1.0, 1.0], [0.0, 0.0]])).of(torch.tensor([[1.0], [2.0]]))
        tensor([[3.],
                [0.]])
        """
        if self.row is not None:
            return bank[self.row : self.row + 1]
        if self.index is None:
            return _weighted(self.weights, bank)
        return self._where_used(bank.index_select(0, self.index))

    def vector(self, bank: Tensor) -> Tensor:
        """Mix a bank for rows that are all alike: (*features)."""
        return self.of(bank)[0] if self.row is None else bank[self.row]

    def common(self) -> Choice:
        """Say how much each batch row uses of a row that all incomplete combinations share."""
        return Choice(common_weights(self.weights))

    def of_all(self, banks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give `of` for each bank, as one node of the graph."""
        picked: tuple[Tensor, ...] = apply(_Picked, self, *banks)
        return picked

    def spread(self, grad: Tensor) -> Tensor:
        """Give the gradient of a bank, from that of what `of` gave."""
        if self.index is None:
            return _weighted(self.weights.T, grad)
        zeros = grad.new_zeros(self.weights.shape[1], *grad.shape[1:])
        return zeros.index_add_(0, self.index, self._where_used(grad))

    def _where_used(self, values: Tensor) -> Tensor:
        if self.used is None:
            return values
        return torch.where(self.used.view(-1, *[1] * (values.dim() - 1)), values, values.new_zeros(()))


def _weighted(weights: Tensor, rows: Tensor) -> Tensor:
    """Add up rows (row, *features) by weights (sum, row); no matrix product, which autocast would round."""
    return (weights.view(*weights.shape, *[1] * (rows.dim() - 1)) * rows).sum(1)


class _Picked(torch.autograd.Function):
    """Pick of all banks. A bank of which nothing was used has no gradient, rather than one of zeros."""

    @staticmethod
    def forward(ctx: Any, choice: Choice, *banks: Tensor) -> tuple[Tensor, ...]:
        ctx.choice = choice
        ctx.set_materialize_grads(False)
        return tuple(choice.of(bank) for bank in banks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        choice: Choice = ctx.choice
        return None, *(None if grad is None else choice.spread(grad) for grad in grads)
