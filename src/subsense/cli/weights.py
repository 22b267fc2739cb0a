"""The network's own weights in files: safetensors, or what `torch.load` reads without running code. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from subsense.atomic import write_atomically
from subsense.errors import CheckpointError, DamagedFile, ForeignTensor, MissingFile, closest

ORIGIN = "recipe"


def write_weights(network: nn.Module, path: Path, origin: str) -> None:
    """Write a network's weights as safetensors, whole or not at all; `origin` says what they depend on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Clones, since safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, to_bytes(tensors, metadata={ORIGIN: origin}))


def read_weights(network: nn.Module, path: Path, origin: str | None = None) -> None:
    """Load weights into a network.

    Args:
        network: changed in place, unless an error is raised.
        path: `.safetensors`, or a file of `torch.save` that holds nothing but a state dict.
        origin: what the weights must depend on, as `write_weights` was told; None: whatever.

    Raises:
        CheckpointError: no such file, not readable, made by another recipe, or tensors that don't fit, with their names.
    """
    if not path.is_file():
        raise MissingFile(f"{path}: no such file; expected the network's weights (network.checkpoint)")
    if origin is not None and _origin(path) != origin:
        raise CheckpointError(f"{path}: written by a recipe with another seed, network, data or pretrain; run `subsense "
                              "train` again, without --resume, or choose another --output")  # fmt: skip
    tensors = _read(path)
    _check(network, tensors, path)
    network.load_state_dict(tensors)


def _origin(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(ORIGIN)
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path}: expected safetensors, but it can't be read ({error})") from None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise DamagedFile(f"{path}: expected a state dict as safetensors, or written by torch.save with nothing but tensors "
                          f"in it; but it can't be read ({str(error).splitlines()[0]})") from None  # fmt: skip
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DamagedFile(f"{path}: expected a state dict (name -> tensor), but found {type(content).__name__}")
    return dict(content)


def _check(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse names and shapes that are not the network's, naming the first few."""
    own = network.state_dict()
    faults = [f"lacks {name}" for name in own if name not in tensors]
    faults += [f"has {name}, which the network has not.{closest(name, own)}" for name in tensors if name not in own]
    faults += [
        f"{name}: expected {tuple(own[name].shape)}, but found {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ForeignTensor(f"{path} does not fit {type(network).__name__}: {'; '.join(faults[:5])}{more}")
