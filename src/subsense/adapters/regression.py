"""Least squares from sums: what brings a layer's output nearest to what it gave with everything present.

The features that an adapter's effect is linear in, and what is left to reach, enter as second moments alone, in
float64, so that rows may come in any number of pieces. Several sets (combinations) that share bank rows are one
problem: a set's effect is the sum of the rows' by its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from subsense.adapters.layers.layer import Layer

DIGITS = 16
"""Differences below so many units in the last place of the values that were summed count as rounding."""


@dataclass(frozen=True)
class Moments:
    """Hold sums over positions of features z and of what is left to reach, r, by groups of channels.

    Attributes:
        count: positions, ().
        z, r: sums, (group, feature) and (group, output).
        zz, zr: sums of products, (group, feature, feature) and (group, feature, output).
        rr: sum of squares, (group, output).
        noise: sum over positions and features of the squares that rounding alone may make, of values and of sums, ().
    """

    count: Tensor
    z: Tensor
    r: Tensor
    zz: Tensor
    zr: Tensor
    rr: Tensor
    noise: Tensor

    @classmethod
    def of(cls, z: Tensor, r: Tensor, groups: int) -> Moments:
        """Add up features (position, group * feature) and rests (position, group * output), without what is no number.

        >>> Moments.of(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [0.0]]), 1).zr
        tensor([[[2.]]], dtype=torch.float64)
        """
        wide = z.double().unflatten(1, (groups, -1)), r.double().unflatten(1, (groups, -1))
        sums = wide[0].sum(0), wide[1].sum(0), *_products(*wide), wide[1].square().sum(0)
        if not all(bool(one.sum().isfinite()) for one in sums):
            finite = (z.sum(1) + r.sum(1)).isfinite()
            if not finite.all():
                return cls.of(z[finite], r[finite], groups)
        share = (DIGITS * torch.finfo(z.dtype).eps) ** 2 + DIGITS * torch.finfo(torch.float64).eps
        return cls(wide[0].new_tensor(len(z)), *sums, share * sums[2].diagonal(dim1=1, dim2=2).sum())

    def empty(self) -> Moments:
        """Give the moments of no position, shaped as these."""
        return Moments(*(torch.zeros_like(getattr(self, one.name)) for one in fields(self)))

    def moved(self, offset: Tensor) -> Moments:
        """Give the moments of features that are less by an offset (group, feature)."""
        cross = self.z[:, :, None] * offset[:, None, :]
        square = self.count * offset[:, :, None] * offset[:, None, :]
        zz = self.zz - cross - cross.mT + square
        zr = self.zr - offset[:, :, None] * self.r[:, None, :]
        return Moments(self.count, self.z - self.count * offset, self.r, zz, zr, self.rr, self.noise)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def _products(z: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    if z.shape[2] == r.shape[2] == 1:
        return z.square().sum(0)[..., None], (z * r).sum(0)[..., None]
    z, r = z.transpose(0, 1), r.transpose(0, 1)
    turned = z.transpose(1, 2)
    return turned @ z, turned @ r


@dataclass(frozen=True)
class Problem:
    """Hold what a method is to solve at one site: bank rows that bring the outputs of some sets nearest to their goals.

    Attributes:
        layer, module: the layer.
        moments: of the method's basis, for each set.
        weights: how much of each bank row each set uses, (set, row).
        ridge: penalty on all but shifts, relative to the features' mean variance.
        shifts: whether the solution may hold a shift that the method itself has no parameter for.
        rows: the bank rows as they are, (row, ...) each; what a solution doesn't need stays.
        rank: the highest rank; None: the method's own.
    """

    layer: Layer
    module: nn.Module
    moments: Sequence[Moments]
    weights: Tensor
    ridge: float
    shifts: bool
    rows: Mapping[str, Tensor]
    rank: int | None = None


@dataclass(frozen=True)
class Solution:
    """Hold what a method found.

    Attributes:
        rows: solved bank rows, (row, ...) each.
        shift: (row, channel), what another method of the site has to add.
        idle: whether the rows do nothing, the shift aside.
    """

    rows: Mapping[str, Tensor]
    shift: Tensor | None = None
    idle: bool = False


@dataclass(frozen=True)
class Normal:
    """Hold the normal equations of features of several bank rows, shifts eliminated.

    Attributes:
        left: (group, row, feature, row, feature).
        right: (group, row, feature, output).
        penalty: for each bank row, (row,).
        rest: the sum of squares that is left without any solution, ().
    """

    left: Tensor
    right: Tensor
    penalty: Tensor
    rest: Tensor
    _means: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, moments: Sequence[Moments], weights: Tensor, ridge: float, shifts: bool) -> Normal:
        """Set up the equations.

        Args:
            moments: for each set.
            weights: (set, row).
            ridge: see `Problem`.
            shifts: let each bank row shift each output freely.
        """
        w = weights.double()
        pairs = w[:, :, None] * w[:, None, :]
        zz, zr = _stack(moments, "zz"), _stack(moments, "zr")
        left = torch.einsum("kmn,kgij->gminj", pairs, zz)
        right = torch.einsum("km,kgip->gmip", w, zr)
        means, rest = None, _stack(moments, "rr").sum()
        if shifts:
            own = torch.linalg.pinv(torch.einsum("kmn,k->mn", pairs, _stack(moments, "count")), hermitian=True)
            z = torch.einsum("kmn,kgi->gmin", pairs, _stack(moments, "z"))
            r = torch.einsum("km,kgp->gmp", w, _stack(moments, "r"))
            means = torch.einsum("ab,gmib->gami", own, z), torch.einsum("ab,gbp->gap", own, r)
            rest = rest - (r * means[1]).sum()
            left = left - torch.einsum("gmia,ganj->gminj", z, means[0])
            right = right - torch.einsum("gmia,gap->gmip", z, means[1])
        variance = torch.einsum("gmimi->m", left) / (left.shape[0] * left.shape[2])
        noise = torch.einsum("kmm,k->m", pairs, _stack(moments, "noise")) / (left.shape[0] * left.shape[2])
        return cls(left, right, ridge * variance.clamp(min=0) + noise, rest, means)

    def shift(self, theta: Tensor) -> Tensor:
        """Give the best shifts (row, channel) with a solution (group, row, feature, output)."""
        assert self._means is not None
        z, r = self._means
        return (r - torch.einsum("gami,gmip->gap", z, theta)).transpose(0, 1).flatten(1)

    def gain(self, theta: Tensor) -> float:
        """Give the share of what is left that a solution gets back, as far as the ridge lets it."""
        rest = float(self.rest)
        return float((theta * self.right).sum()) / rest if rest > 0 else 0.0

    def one(self, row: int, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Give left (group, feature, feature) and right (group, feature, output) of one bank row, the others fixed."""
        others = theta.clone()
        others[:, row] = 0
        right = self.right[:, row] - torch.einsum("ginj,gnjp->gip", self.left[:, row], others)
        return self.left[:, row, :, row], right

    def solve(self) -> Tensor:
        """Solve with no limit on the rank: (group, row, feature, output)."""
        left, right = self.left.flatten(3, 4).flatten(1, 2), self.right.flatten(1, 2)
        penalty = self.penalty.repeat_interleave(self.left.shape[2])
        root = inverse_root(left, penalty)
        return (root @ (root.mT @ right)).view_as(self.right)


def inverse_root(matrix: Tensor, penalty: Tensor) -> Tensor:
    """Give R with R R' the inverse of a symmetric matrix + diag(penalty); directions without any variance give nothing.

    >>> inverse_root(torch.tensor([[4.0]]), torch.tensor([0.0]))
    tensor([[0.5000]])
    """
    size = (matrix.diagonal(dim1=-2, dim2=-1) + penalty).clamp(min=0).sqrt()
    scale = torch.where(size > 0, 1 / size, 0.0)
    even = scale[..., :, None] * (matrix + torch.diag_embed(penalty.expand_as(size))) * scale[..., None, :]
    values, vectors = torch.linalg.eigh((even + even.mT) / 2)
    small = torch.finfo(matrix.dtype).eps * matrix.shape[-1] * values.amax(-1, keepdim=True).clamp(min=0)
    roots = torch.where(values > small, values.clamp(min=0).rsqrt(), 0.0)
    root: Tensor = scale[..., :, None] * vectors * roots[..., None, :]
    return root


def main_directions(matrix: Tensor, rank: int) -> Tensor:
    """Give the left singular vectors of the largest singular values, (..., row, rank)."""
    _, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    main: Tensor = vectors[..., -rank:].flip(-1)
    return main


def _stack(moments: Sequence[Moments], name: str) -> Tensor:
    return torch.stack([getattr(one, name) for one in moments])
