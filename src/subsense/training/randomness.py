"""Randomness without state: before anything random happens, every generator is seeded with what is about to happen.

A run that goes on after a stop draws then what it would have drawn, without any generator's state having been kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Give the seed (0 to 2^32 - 1) that belongs to what is being drawn, such as (seed, "draw", epoch, batch).

    >>> derive_seed(0, "draw", 1, 2) == derive_seed(0, "draw", 1, 2)
    True
    >>> derive_seed(0, "draw", 1, 2) == derive_seed(0, "draw", 2, 1)
    False
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


def seed_everything(*parts: int | str) -> None:
    """Seed the generators of random, numpy and torch (every device) with what is about to be drawn."""
    from accelerate.utils import set_seed

    set_seed(derive_seed(*parts))


def generators_of(loader: Any) -> list[torch.Generator]:
    """Give the generators that a loader holds itself: its own, its samplers' and its data set's."""
    places = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset"))]
    places.append(getattr(places[2], "sampler", None))
    found = (getattr(place, "generator", None) for place in places)
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


@contextmanager
def random_state_kept(*loaders: Any) -> Iterator[None]:
    """Put every generator, those of the loaders included, back to where it was."""
    own = [(generator, generator.get_state()) for loader in loaders for generator in generators_of(loader)]
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if gpu:
            torch.cuda.set_rng_state_all(gpu)
        for generator, state in own:
            generator.set_state(state)
