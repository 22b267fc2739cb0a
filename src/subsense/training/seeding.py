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
    seed = derive_seed(*parts)
    if torch.accelerator.is_available():
        from accelerate.utils import set_seed

        set_seed(seed)
        return
    # The same for a CPU alone, at a tenth of the time: torch.manual_seed would record where it was called from.
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def seed_loader(loader: Any, epoch: int, *parts: int | str) -> None:
    """Seed the generators that a loader holds itself, and tell it which epoch begins where it wants to know."""
    for generator in _generators_of(loader):
        generator.manual_seed(derive_seed(*parts, epoch))
    for place in _places_of(loader):
        if callable(tell := getattr(place, "set_epoch", None)):
            tell(epoch)


def _generators_of(loader: Any) -> list[torch.Generator]:
    found = (getattr(place, "generator", None) for place in _places_of(loader))
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def _places_of(loader: Any) -> list[Any]:
    """Give what may draw an order: loader, data set, samplers, and samplers inside these (accelerate wraps them)."""
    places, found = [loader], [loader]
    for _ in range(3):
        found = [getattr(place, name, None) for place in found for name in ("sampler", "batch_sampler", "dataset")]
        places += (found := [place for place in found if place is not None])
    return list({id(place): place for place in places}.values())


@contextmanager
def random_state_kept(*loaders: Any) -> Iterator[None]:
    """Put every generator, those of the loaders included, back to where it was."""
    own = [(generator, generator.get_state()) for loader in loaders for generator in _generators_of(loader)]
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
