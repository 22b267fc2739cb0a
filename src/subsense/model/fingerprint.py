"""Tell whether a network is as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from xxhash import xxh3_128

from subsense.support.torch_private import plain_parts, whole


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
            for part in plain_parts(whole(tensor.detach())):
                digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{algorithm}{colon}{digest.hexdigest()}"


_ALGORITHMS: Mapping[str, Callable[[], Any]] = {"xxh3": xxh3_128, "": partial(blake2b, digest_size=16)}
