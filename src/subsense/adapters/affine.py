"""y -> gamma y + beta, so that training keeps as little as it can and inference writes no second tensor.

In plain operations autograd keeps ``y`` at every site, though something else already holds what it takes to get it
back: the output, ``y = (out - beta) / gamma``, which the next layer mostly keeps; or a normalisation layer's own input.
Which of them is safe is the caller's to know (`subsense.injection.saved_outputs`); where in doubt, ``y`` is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.adapters.autograd import apply, is_bare, is_plain
from subsense.adapters.sums import sums
from subsense.support.torch_private import alias_of

SMALLEST = 0.1
"""Below this gamma, dividing by it would lose too many digits, so that ``y`` is kept."""


@dataclass(frozen=True)
class Recall:
    """Say how the backward pass gets a site's ``y`` back, and whether anybody else looks at ``y``.

    Attributes:
        steady: the output stays as it is until the backward pass, so that ``y`` follows from it; otherwise from a copy.
        layer: gives ``y`` from the layer's input, which the layer keeps anyway.
        spare: no one else holds ``y``, so the output may be written over it.
    """

    steady: bool = False
    layer: Callable[[Tensor], Tensor] | None = None
    spare: bool = False


def affine(x: Tensor, y: Tensor, gamma: Tensor | None, beta: Tensor | None, recall: Recall | None = None) -> Tensor:
    """Give gamma y + beta in y's dtype; None leaves that half out.

    Args:
        x: input of the layer which gave `y`.
        y: its output.
        gamma, beta: broadcastable to `y`.
        recall: what may be assumed; None: nothing.

    >>> affine(torch.ones(2), torch.ones(2), torch.tensor([2.0, 3.0]), None)
    tensor([2., 3.])
    """
    if not _is_ordinary(y, gamma, beta):
        return _compute(y, gamma, beta).to(y.dtype)
    if not torch.is_grad_enabled() or not any(one is not None and one.requires_grad for one in (y, gamma, beta)):
        return _compute(y, gamma, beta, _target(y, recall))
    if gamma is None or recall is None:
        return _compute(y, gamma, beta)
    if recall.layer is not None:
        adapted: Tensor = apply(_FromLayer, y, x, gamma, beta, recall)
    elif float(gamma.detach().abs().amin()) > SMALLEST:
        adapted = apply(_FromOutput, y, gamma, beta, recall)
        adapted = adapted if recall.steady else adapted.clone()
    else:
        adapted = _compute(y, gamma, beta)
    return adapted


def _is_ordinary(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> bool:
    """Say whether eager autograd runs on torch's own tensors, in the parameters' precision; else: plain operations."""
    return is_plain() and is_bare(y) and all(one is None or one.dtype == y.dtype for one in (gamma, beta))


def _compute(y: Tensor, gamma: Tensor | None, beta: Tensor | None, target: Tensor | None = None) -> Tensor:
    """Compute in plain operations, the same ones whoever asks, so that every way gives the same bits."""
    if gamma is None:
        assert beta is not None
        return torch.add(y, beta, out=target)
    if beta is None:
        return torch.mul(y, gamma, out=target)
    if gamma.shape[-1] == 1:  # maps: torch's three-operand kernel is slow where vectors run along an outer axis
        return torch.mul(y, gamma, out=target).add_(beta)
    return torch.addcmul(beta, y, gamma, out=target)


def _target(y: Tensor, recall: Recall | None) -> Tensor | None:
    """Give where the output may be written: over `y` if no one else holds it.

    It is an alias with a version counter of its own: the layer's graph doesn't need `y`, so it isn't disturbed.
    """
    return alias_of(y) if recall is not None and recall.spare else None


class _FromOutput(torch.autograd.Function):
    """Keep the output: d gamma = (sum dy out - beta sum dy) / gamma."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gamma: Tensor, beta: Tensor | None, recall: Recall) -> Tensor:
        out = _compute(y, gamma, beta, _target(y, recall))
        ctx.save_for_backward(out, gamma, beta)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        out, gamma, beta = ctx.saved_tensors
        d_y = grad * gamma if ctx.needs_input_grad[0] else None
        total, plain = sums(grad, out, gamma.shape)
        if beta is None:
            return d_y, total / gamma, None, None
        return d_y, (total - beta * plain) / gamma, plain, None


class _FromLayer(torch.autograd.Function):
    """Keep the layer's input, which the layer keeps too, and compute its output once more."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, gamma: Tensor, beta: Tensor | None, recall: Recall) -> Tensor:
        ctx.save_for_backward(x, gamma, beta)
        ctx.layer = recall.layer
        return _compute(y, gamma, beta, _target(y, recall))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, gamma, beta = ctx.saved_tensors
        d_gamma, plain = sums(grad, ctx.layer(x), gamma.shape)
        return grad * gamma, None, d_gamma, None if beta is None else plain, None
