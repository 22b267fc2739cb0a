"""`memory="checkpoint"`: the network's blocks run once more in the backward pass, so that nothing inside them is kept.

Libraries checkpoint in training mode alone, and an adapted network stays in eval mode; so it is done here, for every
network alike: at the members of its lists and sequences of blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from subsense.support.torch_private import in_backward

if TYPE_CHECKING:
    from subsense.injection.hooks import Injection


class CheckpointedBlock:
    """Be the forward of a block that is run again in the backward pass.

    Args:
        injection: knows what is running.
        module: the block.
    """

    def __init__(self, injection: Injection, module: nn.Module) -> None:
        self.injection, self.module = injection, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the class's own forward; nothing inside it is kept where gradients will be asked for."""
        running, forward = self.injection.running, type(self.module).forward
        if running is None or not running.grads or not torch.is_grad_enabled() or in_backward():
            return forward(self.module, *args, **kwargs)
        return checkpoint(forward, self.module, *args, use_reentrant=False, **kwargs)


def blocks_of(network: nn.Module, adapted: Iterable[nn.Module]) -> list[nn.Module]:
    """Find the blocks of a network: of the members of a list or sequence, those of a class that it has at least twice.

    Only outermost ones, which hold adapted layers and have parts.

    >>> layers = [nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(3)]
    >>> len(blocks_of(nn.Sequential(*layers, nn.Linear(2, 1)), [layer[0] for layer in layers]))
    3
    """
    known = set(adapted)
    return [block for block in _outermost(network) if known.intersection(block.modules())]


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    classes = Counter(map(type, children))
    for child in children:
        is_member = isinstance(module, nn.ModuleList | nn.Sequential) and classes[type(child)] > 1
        has_forward = not isinstance(child, nn.ModuleList | nn.ModuleDict) and "forward" not in vars(child)
        if is_member and has_forward and any(True for _ in child.children()):
            yield child
        else:
            yield from _outermost(child)
