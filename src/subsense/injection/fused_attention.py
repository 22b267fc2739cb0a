"""torch's switch for its fused transformer path, which neither calls hooks nor knows adapters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
