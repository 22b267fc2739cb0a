"""What functions with a backward pass of their own need to know of torch's autograd."""

from __future__ import annotations

from typing import Any

import torch

from subsense.support.torch_private import forward_gradients_act, transforms_act


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Apply a function with a backward pass of its own."""
    return function.apply(*args)


def is_plain() -> bool:
    """Say whether autograd runs as ever: no graph is made, no function is transformed."""
    return not (torch.compiler.is_compiling() or transforms_act() or forward_gradients_act())
