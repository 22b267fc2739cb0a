"""What functions with a backward pass of their own need to know of torch's autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Apply a function with a backward pass of its own."""
    return function.apply(*args)


def is_plain() -> bool:
    """Say whether autograd runs as ever: no graph is made, no function is transformed."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
