"""Parameters without a gradient on which the loss depends all the same: a layer behind them lets none through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

NUDGE = 0.1
"""Parameters are differences from the identity, so this is a tenth of what a layer gives."""


def find_cuts(parameters: Mapping[str, nn.Parameter], loss: Callable[[], Tensor]) -> set[str]:
    """Give the parameters without a gradient, after a first backward pass, if the loss changes with them.

    Layers with int8 activations, ``detach()``, rounding and a maximum's index let no gradient through.

    Args:
        parameters: name -> parameter.
        loss: the loss of the same rows again, with the same random numbers; called once for each of those without a
            gradient, and once more.

    >>> one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    >>> sorted(find_cuts({"one": one, "other": other}, lambda: one.detach().sum()))
    ['one']
    """
    silent = {name: one for name, one in parameters.items() if one.grad is None and one.requires_grad}
    if not silent:
        return set()
    with torch.no_grad():
        before = loss()
        return {name for name, one in silent.items() if _matters(one, loss, before)}


def _matters(parameter: nn.Parameter, loss: Callable[[], Tensor], before: Tensor) -> bool:
    kept = parameter.detach().clone()
    try:
        parameter.add_(NUDGE)
        return not torch.equal(loss(), before)
    finally:
        parameter.copy_(kept)
