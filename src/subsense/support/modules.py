"""What holds for every `nn.Module`: where it is, and in which mode its parts are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Give the device of a module's first parameter; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Put every part of modules back into train or eval mode as it was."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Hold modules in eval mode; each of their parts is in its own former mode afterwards."""
    with modes_kept(*modules):
        for module in modules:
            module.eval()
        yield
