"""Tell whether files and networks are as they were: checksums, fingerprints, JSON with one value for each key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BYTES = 8
FINGERPRINT_BYTES = 16
CHUNK = 1 << 20


def checksum(data: Mapping[str, Any]) -> str:
    """Give the checksum of JSON data, which neither the order of keys nor white space changes.

    >>> checksum({"a": 1, "b": [2]}) == checksum({"b": [2], "a": 1})
    True
    """
    return blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=BYTES).hexdigest()


def checksum_of_bytes(data: bytes) -> str:
    """Give the checksum of a file's content."""
    return blake2b(data, digest_size=BYTES).hexdigest()


def checksum_of_file(path: Path) -> str:
    """Give the same as `checksum_of_bytes`, whatever the file's size, in little memory."""
    digest = blake2b(digest_size=BYTES)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def checksum_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Give the checksum of named tensors on the CPU: names, shapes, dtypes and bytes, in the order of the names."""
    digest = blake2b(digest_size=BYTES)
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(network: nn.Module) -> str:
    """Hash a network's `state_dict`: names, shapes, dtypes, bytes; 32 hexadecimal digits.

    >>> fingerprint(torch.nn.ReLU())
    'cae66941d9efbd404e4d88758ea67670'
    """
    digest = blake2b(digest_size=FINGERPRINT_BYTES)
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
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
