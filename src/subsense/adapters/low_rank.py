"""Reduced-rank regression for LoRA: the factors that bring a layer's output nearest to its goal.

A dense layer is solved in the space of its own outputs, z = W x: ``z U V`` is the layer with ``down = U' W`` and
``up = V``. The cut to a rank that loses least is A. J. Izenman's (Reduced-rank regression for the multivariate linear
model, J. Multivariate Anal. 5, 1975), the features' covariance being the weight. Grouped and transposed convolutions
have factors that no map of their outputs gives, so there the features are the patches of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from subsense.adapters.regression import Normal, inverse_root, main_directions

ROUNDS = 4
"""How often the bank rows that share a problem are solved in turn, each with the others as they are."""


@dataclass(frozen=True)
class Factors:
    """Hold a solution of low rank: inner (group or 1, feature, rank), outer (group, rank * kernel, output)."""

    inner: Tensor
    outer: Tensor
    theta: Tensor


Cut = Callable[[Tensor, Tensor, Tensor, int], Factors]
"""(left, right, penalty, rank) -> the best factors."""


def solve_low_rank(normal: Normal, cut: Cut, rank: int) -> tuple[list[Factors], Tensor]:
    """Solve for each bank row factors of a rank; give them, and the solution (group, row, feature, output)."""
    num_rows = len(normal.penalty)
    theta = normal.solve() if num_rows > 1 else torch.zeros_like(normal.right)
    factors: list[Factors] = []
    for _ in range(ROUNDS if num_rows > 1 else 1):
        factors = []
        for row in range(num_rows):
            left, right = normal.one(row, theta)
            factors.append(cut(left, right, normal.penalty[row], rank))
            theta[:, row] = factors[row].theta
    return factors, theta


def dense_factors(left: Tensor, right: Tensor, penalty: Tensor, rank: int) -> Factors:
    """Give the best factors of a map of a layer's own outputs: (group, ...) each, of one bank row."""
    root = inverse_root(left, penalty)
    white = root.mT @ right
    turn = main_directions(white, rank)
    inner, outer = root @ turn, turn.mT @ white
    return Factors(inner, outer, inner @ outer)


def shared_factors(left: Tensor, right: Tensor, penalty: Tensor, rank: int) -> Factors:
    """Let all groups of a convolution share the inner factor, found with their mean covariance."""
    root = inverse_root(left, penalty)
    theta = root @ (root.mT @ right)
    inner = _inner(left.mean(0), penalty, theta.transpose(0, 1).flatten(1), rank)
    return _outer(left, right, penalty, inner.expand(len(left), -1, -1), inner[None])


def spread_factors(left: Tensor, right: Tensor, penalty: Tensor, rank: int, kernel: int) -> Factors:
    """Let all places of a transposed convolution's kernel share the inner factor of their group."""
    root = inverse_root(left, penalty)
    theta = root @ (root.mT @ right)
    places = left.unflatten(2, (-1, kernel)).unflatten(1, (-1, kernel))
    inner = _inner(torch.einsum("gikjk->gij", places), penalty, theta.unflatten(1, (-1, kernel)).flatten(2), rank)
    every = torch.einsum("gir,kl->gikrl", inner, torch.eye(kernel, dtype=inner.dtype, device=inner.device))
    return _outer(left, right, penalty, every.flatten(3, 4).flatten(1, 2), inner)


def _inner(covariance: Tensor, penalty: Tensor, theta: Tensor, rank: int) -> Tensor:
    root = inverse_root(covariance, penalty)
    return root @ main_directions(root.mT @ covariance @ theta, rank)


def _outer(left: Tensor, right: Tensor, penalty: Tensor, basis: Tensor, inner: Tensor) -> Factors:
    """Solve the outer factor on a basis of the features, exactly."""
    small = basis.mT @ (left @ basis + penalty * basis)
    root = inverse_root(small, penalty.new_zeros(()))
    outer = root @ (root.mT @ (basis.mT @ right))
    return Factors(inner, outer, basis @ outer)
