"""The network's own weights in a file of the recipe's folder, which says what they depend on."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import nn

from subsense.errors import CheckpointError
from subsense.support.files import write_atomically
from subsense.zoo import weights

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
        path: a file that `subsense.zoo.weights` reads, with the names and shapes of the network's `state_dict`.
        origin: what the weights must depend on, as `write_weights` was told; None: whatever.

    Raises:
        MissingFile, DamagedFile: no such file, or none that can be read.
        CheckpointError: made by another recipe.
        ForeignTensor: names or shapes that aren't the network's, with the first few.
    """
    tensors, about = weights.read_weights(path)
    if origin is not None and about.get(ORIGIN) != origin:
        raise CheckpointError(
            f"{path}: written by a recipe with another seed, network, data or pretrain; run `subsense train` again, "
            "without --resume, or choose another --output"
        )
    weights.check_fit(tensors, network.state_dict(), path, type(network).__name__)
    network.load_state_dict(tensors)
