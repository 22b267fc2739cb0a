"""y -> gamma y + beta, so that training keeps as little as it can and inference writes no second tensor.

In plain operations autograd keeps ``y`` at every site, though something else already holds what it takes to get it
back: the output, ``y = (out - beta) / gamma``, which the next layer mostly keeps; or a normalisation layer's own input.
Which of them is safe is the caller's to know (`subsense.injection.saved_outputs`); where in doubt, ``y`` is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from subsense.adapters.autograd import apply, is_plain

SMALLEST = 0.1
"""Below this gamma, dividing by it would lose too many digits, so that ``y`` is kept."""
LARGE = 2**14
LARGE_ROW = 2**18
"""Numbers of a gradient, and of a row's, from which one pass for two sums is faster."""


_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default


@dataclass(frozen=True)
class Recall:
    """Say how the backward pass gets a site's ``y`` back, and whether anybody else looks at ``y``.

    Attributes:
        output: the output stays as it is until the backward pass, so that ``y`` follows from it.
        layer: gives ``y`` from the layer's input, which the layer keeps anyway.
        spare: no one else holds ``y``, so the output may be written over it.
    """

    output: bool = False
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
    elif recall.output and float(gamma.detach().abs().amin()) > SMALLEST:
        adapted = apply(_FromOutput, y, gamma, beta, recall)
    else:
        adapted = _compute(y, gamma, beta)
    return adapted


def sums(grad: Tensor, y: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Add up grad * y, and grad, over the axes along which numbers of a shape are repeated.

    Args:
        grad, y: of one shape.
        shape: what broadcasts to it; each axis whole, or 1.

    >>> sums(torch.ones(4, 2), torch.full((4, 2), 3.0), (2,))
    (tensor([12., 12.]), tensor([4., 4.]))
    """
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or not _has_kernel(grad):
        return (grad * y).sum_to_size(shape), grad.sum_to_size(shape)
    full = [1] * (grad.dim() - len(shape)) + list(shape)
    stays = [axis for axis, size in enumerate(full) if size > 1]
    first, last = (stays[0], stays[-1] + 1) if stays else (0, 0)
    if last - first == len(stays) and grad.numel() >= LARGE and (last - first < 2 or y.is_contiguous()):
        total, plain = _both_sums(grad, y, first, last)
    elif stays[:1] == [0] and grad.numel() >= LARGE_ROW * len(grad):
        rows = [sums(one, other, full[1:]) for one, other in zip(grad, y, strict=True)]
        total, plain = (torch.stack(parts) for parts in zip(*rows, strict=True))
    else:
        return (grad * y).sum_to_size(shape), grad.sum_to_size(shape)
    return total.view(shape), plain.view(shape)


def _has_kernel(grad: Tensor) -> bool:
    return grad.device.type == "cpu" and grad.dtype in (torch.float32, torch.float64)


def _both_sums(grad: Tensor, y: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Make one pass for both: with mean 0 and deviation 1, they are the gradients of a batch norm's own pair."""
    size = grad.shape
    merged = prod(size[:first]), prod(size[first:last]), prod(size[last:])
    grad, y = grad.reshape(merged), y.reshape(merged)
    if y.transpose(1, 2).is_contiguous():
        grad, y = (one.transpose(1, 2).reshape(-1, merged[1]) for one in (grad, y))
    mean, deviation = grad.new_zeros(merged[1]), grad.new_ones(merged[1])
    _, total, plain = _batch_norm_backward(
        grad.contiguous(), y.contiguous(), None, None, None, mean, deviation, True, 0.0, [False, True, True]
    )
    return total, plain


def _is_ordinary(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> bool:
    """Say whether eager autograd runs, in the precision of the parameters; everything else gets plain operations."""
    return is_plain() and all(one is None or one.dtype == y.dtype for one in (gamma, beta))


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
    return y.data if recall is not None and recall.spare else None


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
