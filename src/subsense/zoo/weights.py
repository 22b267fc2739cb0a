"""Read a network's weights from a file, and see whether they fit, before anything is changed.

Safetensors, or what `torch.save` wrote: the latter by torch's unpickler for weights alone, which builds tensors and
plain containers and runs nothing that the file names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - the name of what torch raises; nothing is unpickled with it

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.torch_version import TorchVersion

from subsense.errors import CheckpointError, DamagedFile, ForeignTensor, MissingFile, closest

PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Endings of files that `torch.save` wrote; any other is safetensors."""

SAFE_SINCE = "2.10"
"""The first torch without a known hole in its unpickler for weights alone (CVE-2025-32434, CVE-2026-24747)."""

HOLDERS = ("state_dict", "model_state_dict", "model")
"""Keys under which published checkpoints keep the weights, beside what else they hold."""

Weights = Mapping[str, Tensor]
_CONVERT = (
    "Where you trust the file, convert it: "
    "safetensors.torch.save_file(torch.load(path, weights_only=False)['state_dict'], 'weights.safetensors')"
)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a file by name, and what it says of itself.

    Args:
        path: safetensors, or one of `PICKLED`; there the weights may lie under one of `HOLDERS`.

    Returns:
        Name -> tensor on the CPU; the metadata of a safetensors file.

    Raises:
        MissingFile: no such file.
        DamagedFile: it can't be read, or holds other things than tensors.
        CheckpointError: `torch.save` wrote it, and this torch can't be trusted to read it.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"{path}: no such file; expected the network's weights")
    if path.suffix in PICKLED:
        return _tensors(path, _unpickled(path)), {}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DamagedFile(
            f"{path}: expected the network's state_dict as safetensors, but it can't be read ({error}). A file written "
            f"by torch.save is told by its ending: {', '.join(PICKLED)}"
        ) from None


def check_fit(weights: Weights, own: Weights, path: str | Path, network: str) -> None:
    """Refuse names and shapes that are not the network's, naming the first few.

    Args:
        weights: what is to be loaded.
        own: what the network has.
        path, network: what the message calls them.

    Raises:
        ForeignTensor: a tensor that is lacking, that doesn't belong, or that has another shape.

    >>> check_fit({"weight": torch.zeros(2)}, {"weight": torch.zeros(3)}, "weights.pth", "Linear")
    Traceback (most recent call last):
    ...
    subsense.errors.ForeignTensor: weights.pth does not fit Linear: weight: expected (3,), but found (2,)
    """
    faults = [f"lacks {name}" for name in own if name not in weights]
    faults += [f"has {name}, which the network has not.{closest(name, own)}" for name in weights if name not in own]
    faults += [
        f"{name}: expected {tuple(own[name].shape)}, but found {tuple(tensor.shape)}"
        for name, tensor in weights.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ForeignTensor(f"{path} does not fit {network}: {'; '.join(faults[:5])}{more}")


def _unpickled(path: Path) -> object:
    if TorchVersion(torch.__version__) < SAFE_SINCE:
        raise CheckpointError(
            f"{path}: files of torch.save are read with torch {SAFE_SINCE} or newer; in torch "
            f"{torch.__version__} such a file can run what it likes. {_CONVERT}"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - admits tensors, runs nothing
    except UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise DamagedFile(
            f"{path}: expected tensors and plain containers alone, but found more, which subsense won't unpickle "
            f"({reason}). {_CONVERT}"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise DamagedFile(f"{path}: expected a file written by torch.save, but it can't be read ({error})") from None


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    """Find the weights in what a file holds."""
    if isinstance(content, Mapping):
        for holder in HOLDERS:
            if isinstance(content.get(holder), Mapping):
                return _tensors(path, content[holder])
        if content and all(isinstance(tensor, Tensor) for tensor in content.values()):
            return {str(name): tensor.detach() for name, tensor in content.items()}
    found = f"a mapping with {list(content)[:5]}" if isinstance(content, Mapping) else type(content).__name__
    raise DamagedFile(
        f"{path}: expected names and tensors, at the top or under one of {', '.join(HOLDERS)}, but found {found}"
    )
