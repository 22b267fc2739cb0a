"""The network's own weights in a file: safetensors, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
    """Load weights into a network, which stays as it was where they don't fit.

    Args:
        network: gets the weights.
        path: a safetensors file with the names and shapes of the network's `state_dict`.
        origin: what the weights must depend on, as `write_weights` was told; None: whatever.

    Raises:
        MissingFile, DamagedFile: no such file, or no safetensors.
        CheckpointError: made by another recipe.
        ForeignTensor: names or shapes that aren't the network's, with the first few.
    """
    tensors, found = _read(path)
    if origin is not None and found != origin:
        raise CheckpointError(
            f"{path}: written by a recipe with another seed, network, data or pretrain; run `subsense train` again, "
            "without --resume, or choose another --output"
        )
    _check(network, tensors, path)
    network.load_state_dict(tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    if not path.is_file():
        raise MissingFile(f"{path}: no such file; expected the network's weights")
    try:
        with safe_open(path, framework="pt") as file:
            origin = (file.metadata() or {}).get(ORIGIN)
        return load_file(path), origin
    except (SafetensorError, OSError) as error:
        raise DamagedFile(
            f"{path}: expected the network's state_dict as safetensors, but it can't be read ({error}). A file written "
            "by torch.save is converted with safetensors.torch.save_file(network.state_dict(), ...)"
        ) from None


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
