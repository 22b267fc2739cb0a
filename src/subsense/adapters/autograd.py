"""What functions with a backward pass of their own need to know of torch's autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subsense.support.torch_private import forward_gradients_act, transforms_act


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Apply a function with a backward pass of its own."""
    return function.apply(*args)


def is_plain() -> bool:
    """Say whether autograd runs as ever: no graph is made, no function is transformed."""
    return not (torch.compiler.is_compiling() or transforms_act() or forward_gradients_act())


def is_bare(tensor: Tensor) -> bool:
    """Say whether a tensor is torch's own, of no class that somebody made.

    What a function with a backward pass of its own gives for another class is a view of that function's output, so
    that torch forbids the next layer to work in place.

    >>> is_bare(torch.ones(2)), is_bare(torch.ones(2).as_subclass(type("Mine", (Tensor,), {})))
    (True, False)
    """
    return type(tensor) in (Tensor, torch.nn.Parameter)
