"""Files written whole and read with suspicion: one step on disk, checksums, JSON with one value for each key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subsense.errors import WriteError

BYTES = 8


def checksum(data: Mapping[str, Any]) -> str:
    """Give the checksum of JSON data, which neither the order of keys nor white space changes.

    >>> checksum({"a": 1, "b": [2]}) == checksum({"b": [2], "a": 1})
    True
    """
    return blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=BYTES).hexdigest()


def checksum_of_bytes(data: bytes) -> str:
    """Give the checksum of a file's content."""
    return blake2b(data, digest_size=BYTES).hexdigest()


def checksum_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Give the checksum of named tensors on the CPU: names, shapes, dtypes and bytes, in the order of the names."""
    digest = blake2b(digest_size=BYTES)
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: no JSON, no object, nested too deep, or a key that stands twice.

    >>> parse_object(b'{"rgb": 1, "rgb": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'rgb' stands twice
    """
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(data, dict):
        raise ValueError(f"{type(data).__name__} instead of an object")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file in one step: at every moment the path holds the whole old content or the whole new one.

    Raises:
        WriteError: the disk is full, or the like; the path holds the old content.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise WriteError(
            f"{path}: {len(data):,} bytes could not be written ({error.strerror or error}); "
            "what stood there before is whole"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: str | Path) -> Path:
    """Make a folder, and those above it, where they don't exist; raise `WriteError` where that can't be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: this folder could not be made ({error.strerror or error})") from error
    return Path(folder)
