"""The state of a run on disk: one safetensors file, replaced in one piece, its position as JSON in the header.

Randomness is drawn anew from (seed, epoch, batch), so no random state is kept: tensors and a position are all there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from subsense.errors import DamagedFile, TrainingError
from subsense.support.files import checksum, checksum_of_tensors, make_folder, parse_object, write_atomically

FILE = "training.safetensors"
FORMAT = 2
Facts = Mapping[str, Any]
"""What makes a run this run: plain JSON data."""


def save_state(folder: str | Path, facts: Facts, position: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Keep the state of a run; a stop at any moment leaves either this state or the one before, never half of one.

    Args:
        folder: made if need be.
        facts: what the run is, to be compared when it goes on.
        position: where it is, as JSON data.
        tensors: everything that changes.
    """
    own = {name: _own(tensor) for name, tensor in tensors.items()}
    header = {"format": FORMAT, "facts": facts, "position": position}
    header |= {"checksum": _checksum(header, own)}
    write_atomically(make_folder(folder) / FILE, save(own, metadata={"subsense": json.dumps(header)}))


def load_state(folder: str | Path, facts: Facts) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read position and tensors of the state in a folder; None where there is none yet.

    Raises:
        DamagedFile: not a state, or not all of it.
        TrainingError: the state of another run; says what differs.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_object(file.metadata()["subsense"].encode())
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        _check_whole(header, tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path}: expected the state of a training run, but it can't be read ({error}); "
                          "delete it to start anew") from error  # fmt: skip
    _check_facts(path, header, facts)
    return header["position"], tensors


def has_state(folder: str | Path) -> bool:
    """Say whether a folder holds the state of a run."""
    return (Path(folder) / FILE).exists()


def check_vacant(folder: str | Path) -> None:
    """Refuse a folder that holds a state already: starting there would destroy it.

    Raises:
        TrainingError: names the ways out.
    """
    if has_state(folder):
        raise TrainingError(f"{Path(folder) / FILE} holds the state of a run already: pass resume=True to go on, "
                            "or delete it or choose another folder to start anew")  # fmt: skip


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return checksum({**header, "checksum": checksum_of_tensors(tensors.items())})


def _check_whole(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    if header.get("checksum") != _checksum(header, tensors):
        raise ValueError("its checksum doesn't fit its content")


def _own(tensor: Tensor) -> Tensor:
    """Copy, since safetensors refuses tensors that share memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _check_facts(path: Path, header: Mapping[str, Any], facts: Facts) -> None:
    if header.get("format") != FORMAT:
        raise TrainingError(f"{path}: expected format {FORMAT}, but found {header.get('format')!r}; "
                            "finish that run with the version of subsense that began it")  # fmt: skip
    kept, asked = header["facts"], json.loads(json.dumps(facts))
    different = [name for name in {**kept, **asked} if kept.get(name) != asked.get(name)]
    if different:
        list_ = "; ".join(f"{name} was {_short(kept.get(name))} and is {_short(asked.get(name))}" for name in different)
        raise TrainingError(f"{path} belongs to another run: {list_}. Train with what it was begun with, "
                            "or choose another folder")  # fmt: skip


def _short(value: Any, most: int = 80) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else text[: most - 3] + "..."
