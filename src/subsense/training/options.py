"""How a training run goes: every option that all runs share, checked together, and the learning rate's way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from subsense.errors import TrainingError, closest

SCHEDULES = ("cosine", "poly", "constant")
PRECISIONS = ("no", "bf16")
TRACKERS = ("tensorboard",)
POLY_POWER = 0.9


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Hold the options that `train`, `train_dedicated`, `finetune` and `pretrain` share.

    Args:
        epochs: passes over the loader.
        lr: highest learning rate of AdamW.
        weight_decay: AdamW's. Adapters are stored as their difference from the identity, so it pulls them there.
        warmup: steps over which the learning rate rises from near zero; below 1: as a share of all steps.
        schedule: the learning rate's way down after that: ``"cosine"``, ``"poly"`` (power 0.9) or ``"constant"``.
        clip: largest L2 norm of the gradient; None: as it is.
        accumulate: batches that make one step together.
        precision: ``"no"`` (as the tensors are) or ``"bf16"`` (the network runs under autocast).
        dropout: let the network's Dropout layers drop while adapters train. Ignored where the whole network trains.
        seed: of every random draw. The caller's own random state is as before afterwards.
        patience: stop after so many epochs without a better validation; None: never.
        folder: where the state of the run is kept, so that it can go on; None: nowhere.
        resume: go on from `folder`, or start there if nothing was kept yet.
        save_every: keep the state after so many steps, besides after every epoch.
        progress: show a bar with loss, metric and time left on stderr.
        log_with: ``"tensorboard"`` writes loss, learning rate and metric under ``folder/logs``.

    Raises:
        TrainingError: names every option that cannot be.

    >>> TrainOptions(epochs=3).learning_rate(step=0, total=100)
    0.001
    >>> TrainOptions(seed=-1)
    Traceback (most recent call last):
    ...
    subsense.errors.TrainingError: seed: expected a whole number, 0 or more, but found -1
    """

    epochs: int = 20
    lr: float = 1e-2
    weight_decay: float = 0.0
    warmup: float = 0.1
    schedule: str = "cosine"
    clip: float | None = None
    accumulate: int = 1
    precision: str = "no"
    dropout: bool = False
    seed: int = 0
    patience: int | None = None
    folder: str | Path | None = None
    resume: bool = False
    save_every: int | None = None
    progress: bool = True
    log_with: str | None = None

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            raise TrainingError("; ".join(faults))

    @classmethod
    def of(cls, options: Mapping[str, Any], **defaults: Any) -> TrainOptions:
        """Make options of keywords; raise `TrainingError` for an unknown one, with the near miss."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise TrainingError("; ".join(f"unknown option {name!r}.{closest(name, known)}" for name in unknown))
        return cls(**{**defaults, **options})

    def learning_rate(self, step: int, total: int | None) -> float:
        """Give the learning rate of a step counted from 0, of `total` (None: not known, so no share of it either)."""
        warmup = math.ceil(self.warmup if self.warmup >= 1 or total is None else self.warmup * total)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "constant" or total is None:
            return self.lr
        left = 1 - (step - warmup) / max(total - warmup, 1)
        return self.lr * (left**POLY_POWER if self.schedule == "poly" else 0.5 * (1 - math.cos(math.pi * left)))


def _faults(options: TrainOptions) -> Iterator[str]:
    """Say what is wrong with the options, all of it."""
    for name in ("epochs", "accumulate"):
        yield from _unless(_is_whole, 1, name, getattr(options, name), "a whole number above 0")
    for name in ("patience", "save_every"):
        if getattr(options, name) is not None:
            yield from _unless(_is_whole, 1, name, getattr(options, name), "a whole number above 0, or None")
    yield from _unless(_is_whole, 0, "seed", options.seed, "a whole number, 0 or more")
    for name in ("weight_decay", "warmup"):
        yield from _unless(_is_number, 0, name, getattr(options, name), "a number, 0 or more")
    for name, value in (("lr", options.lr), ("clip", 1 if options.clip is None else options.clip)):
        yield from _unless(_is_number, 5e-324, name, value, "a number above 0")
    for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
        yield from one_of(name, getattr(options, name), known)
    yield from _folder_faults(options)


def _folder_faults(options: TrainOptions) -> Iterator[str]:
    if options.log_with is not None:
        yield from one_of("log_with", options.log_with, TRACKERS)
        if options.log_with in TRACKERS and find_spec(options.log_with) is None:
            yield f"log_with: {options.log_with!r} is not installed: pip install 'subsense[{options.log_with}]'"
    asked = {"resume": options.resume, "save_every": options.save_every, "log_with": options.log_with}
    for name in (name for name, value in asked.items() if value and options.folder is None):
        yield f"{name}={asked[name]!r} needs a folder: pass folder=..."


def one_of(name: str, value: object, known: tuple[str, ...]) -> Iterator[str]:
    """Yield a fault unless `value` is among the known ones."""
    if value not in known:
        yield f"{name}: expected one of {', '.join(known)}, but found {value!r}.{closest(str(value), known)}"


def _unless(holds: Callable[[object, float], bool], least: float, name: str, value: object, text: str) -> Iterator[str]:
    if not holds(value, least):
        yield f"{name}: expected {text}, but found {value!r}"


def _is_whole(value: object, least: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < math.inf
