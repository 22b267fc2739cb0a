"""Tell whether files and networks are as they were: checksums, fingerprints, JSON with one value for each key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from xxhash import xxh3_128

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


def fingerprint(network: nn.Module, like: str = "xxh3:") -> str:
    """Hash a network's `state_dict`: names, shapes, dtypes, bytes; an algorithm's name and 32 hexadecimal digits.

    It is to notice other weights, not somebody who makes weights that fit, and to cost no more than reading them.

    Args:
        network: the network.
        like: a fingerprint that it is compared with, and so made in the same way; without a name, by blake2b.

    Raises:
        ValueError: `like` names an algorithm that isn't known.

    >>> fingerprint(torch.nn.ReLU())
    'xxh3:99aa06d3014798d86001c324468d497f'
    >>> fingerprint(torch.nn.ReLU(), like="cae66941d9efbd404e4d88758ea67670")
    'cae66941d9efbd404e4d88758ea67670'
    """
    algorithm, colon, _ = like.rpartition(":")
    if algorithm not in _ALGORITHMS:
        raise ValueError(f"the fingerprint {like!r} is made by {algorithm!r}, which isn't known")
    digest = _ALGORITHMS[algorithm]()
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{algorithm}{colon}{digest.hexdigest()}"


_ALGORITHMS: Mapping[str, Callable[[], Any]] = {"xxh3": xxh3_128, "": partial(blake2b, digest_size=16)}


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
