"""Torch's private names that passes over exported graphs need, each behind a name of ours: an upgrade fails here.

tests/deployment/test_torch_private_of_graphs.py says of each what it must do.
"""

from __future__ import annotations

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
