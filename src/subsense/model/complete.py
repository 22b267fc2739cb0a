"""A complete batch in somebody's own training loop: nothing of it depends on adapters, so they get zero gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from subsense.adapters.autograd import apply


def with_zero_gradients(output: Any, parameters: Iterable[nn.Parameter]) -> Any:
    """Give an output that depends on parameters, with gradients of zero; the same where it has a graph already.

    Without that, `backward` fails for a batch in which nothing is missing, and stops all processes of a run.
    """
    leaves, spec = tree_flatten(output)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    moving = [one for one in parameters if one.requires_grad]
    if not moving or not tensors or any(leaf.requires_grad for leaf in tensors):
        return output
    known = {id(leaf): apply(_Depending, leaf, *moving) for leaf in tensors}
    return tree_unflatten([known.get(id(leaf), leaf) for leaf in leaves], spec)


class _Depending(torch.autograd.Function):
    """Copy a tensor, bit by bit, and give every parameter a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, *(torch.zeros_like(one) for one in ctx.saved_tensors)
