"""torch's switch for its fused transformer path, which neither calls hooks nor knows adapters."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_SWITCH = threading.Lock()
_FOUND: list[bool] = []


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep torch's fused transformer path, which neither calls hooks nor knows adapters, switched off for a while.

    The switch is torch's, one for all threads: the last to leave sets it to what the first one found.
    """
    if torch.compiler.is_compiling():
        yield
        return
    with _SWITCH:
        _FOUND.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _SWITCH:
            found = _FOUND.pop()
            if not _FOUND:
                torch.backends.mha.set_fastpath_enabled(found)


class PlainEncoder:
    """Be the forward of a `TransformerEncoder` whose layers are adapted: padded tokens stay tokens.

    By default it hands its layers a nested tensor where none of torch's conditions forbids it; the layers then find
    hooks, leave the fused path, and can't read it. Calls past the model need that as much as calls through it.
    """

    def __init__(self, module: nn.TransformerEncoder) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the encoder without the fused path."""
        with plain_attention():
            return type(self.module).forward(self.module, *args, **kwargs)


def plain_encoders(network: nn.Module, adapted: Iterable[nn.Module]) -> dict[nn.Module, PlainEncoder]:
    """Find the encoders that hold an adapted layer, with the forward that suits them."""
    known = set(adapted)
    encoders = (module for module in network.modules() if isinstance(module, nn.TransformerEncoder))
    return {encoder: PlainEncoder(encoder) for encoder in encoders if known.intersection(encoder.modules())}
