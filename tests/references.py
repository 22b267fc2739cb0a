"""Outputs of published networks in the shared folder, and the weights and inputs for which they were computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn


def reference(shared: Path, name: str) -> dict[str, Any]:
    """Read a reference, or skip the test where there is none."""
    path = shared / "reference" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read


def set_weights(network: nn.Module) -> nn.Module:
    """Give a network the weights of the references: in registration order, parameters first, then buffers."""
    buffers = [(name, buffer) for name, buffer in network.named_buffers() if buffer.is_floating_point()]
    for index, (name, tensor) in enumerate([*network.named_parameters(), *buffers]):
        tensor.data.copy_(_weights(index, name, tensor))
    return network


def inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw the inputs of the references."""
    return [_drawn(1000 + index, shape).float() for index, shape in enumerate(shapes)]


def _weights(index: int, name: str, like: Tensor) -> Tensor:
    drawn = _drawn(index, tuple(like.shape))
    if name.endswith("running_var"):
        return 1 + 0.2 * drawn.abs()
    if like.dim() > 1:
        return drawn / like[0].numel() ** 0.5
    return 1 + 0.1 * drawn if name.endswith("weight") or "layer_scale" in name else 0.1 * drawn


def _drawn(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(int(np.prod(shape))).reshape(shape))
