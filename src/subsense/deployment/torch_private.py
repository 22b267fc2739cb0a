"""Torch's private names that passes over exported graphs need, each behind a name of ours: an upgrade fails here.

tests/deployment/test_torch_private_of_graphs.py says of each what it must do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["FakeTensorMode", "OpOverload"]

aten = torch.ops.aten

VIEWS = (aten.view.default, aten._unsafe_view.default)
"""What gives the same numbers in another shape."""
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
"""A batch normalisation in eval mode, as decompositions leave it."""


def arguments_of(module: fx.GraphModule) -> Any:
    """Say how the arguments of an exported module are taken apart: `orig_args`, `in_spec`, `out_spec`."""
    codegen: Any = module.graph._codegen
    return codegen.pytree_info


@contextmanager
def noting_guards(note: Callable[[], None]) -> Iterator[None]:
    """Call a function each time that tracing binds a free size to what a network does, while that is being run.

    Torch's error says which guards it can't keep, and its log who asked for them: what is logged is seen here, and goes
    no further than it would.
    """
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    shown = logger.getEffectiveLevel()

    def look(record: logging.LogRecord) -> bool:
        text = record.getMessage() if record.levelno == logging.INFO else ""
        if text.startswith("eval ") and "[guard added]" in text:
            note()
        return record.levelno >= shown

    logger.addFilter(look)
    logger.setLevel(min(shown, logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeFilter(look)
