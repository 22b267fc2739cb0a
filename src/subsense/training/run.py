"""What a run is, and where it stands: plain data that the loop reads, keeps and resumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from subsense.degradation import Degrader
from subsense.errors import TrainingError
from subsense.modalities import Combination
from subsense.training.gradients import Steep
from subsense.training.losses import Objective
from subsense.training.options import TrainOptions
from subsense.training.sampling import Drawer
from subsense.training.state import Facts
from subsense.training.trainee import Trainee
from subsense.training.validation import Validation

PASSING = ("folder", "resume", "save_every", "progress", "log_with")
"""Options that may differ when a run goes on: they don't change what comes out."""


@dataclass(frozen=True)
class Part:
    """Hold combinations that train together, and how they are drawn."""

    combinations: tuple[Combination, ...]
    drawer: Drawer


@dataclass(frozen=True)
class Run:
    """Hold everything that a run is.

    Attributes:
        trainee: what is trained.
        loader: batches ``(inputs, target)``.
        objective: what is minimised.
        parts: train one after the other, each with an optimiser and a schedule of its own.
        options: how.
        validation: measured after every epoch; the parameters of each part's best epoch are kept.
        facts: what else makes this run this run, to be compared when it goes on.
        degrader: makes rows as bad as the qualities that the parts' drawers draw; None: these draw none.
    """

    trainee: Trainee
    loader: Any
    objective: Objective
    parts: tuple[Part, ...]
    options: TrainOptions
    validation: Validation | None = None
    facts: Facts = field(default_factory=dict)
    degrader: Degrader | None = None


@dataclass
class Position:
    """Hold where a run stands, as JSON data: counters of the part and epoch under way, and the epochs that are done.

    Attributes:
        batch: batches of the epoch that are done, in each process; `step`: steps of the part.
        loss: sum over the epoch's `rows`, of all processes; `dropped`: rows that nothing fits.
        total_steps: steps of all parts.
        trained: combination -> rows that it was trained on so far.
        seconds: wall-clock time up to when this was kept.
        steep: site -> the fields of its `Steep`: where a combination's first gradients exploded.
        history: the fields of every `Epoch`.
    """

    part: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    rows: int = 0
    dropped: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    trained: dict[str, int] = field(default_factory=dict)
    steep: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def steep_sites(self) -> dict[str, Steep]:
        """Give where gradients exploded so far."""
        return {site: Steep(**found) for site, found in self.steep.items()}

    def add_steep(self, found: Mapping[str, Steep]) -> None:
        """Add what was found for some combinations to what was found for others."""
        for site, one in found.items():
            before = self.steep.get(site, {"norms": {}, "limit": one.limit})
            self.steep[site] = {"norms": {**before["norms"], **one.norms}, "limit": min(before["limit"], one.limit)}

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch, self.batch, self.loss, self.rows, self.dropped = self.epoch + 1, 0, 0.0, 0, 0

    def next_part(self) -> None:
        """Go to the start of the next part."""
        self.next_epoch()
        self.part, self.epoch, self.step = self.part + 1, 0, 0

    def __str__(self) -> str:
        return f"step {self.step + 1} (epoch {self.epoch + 1}, batch {self.batch + 1})"


def facts_of(run: Run, num_batches: int | None, num_processes: int) -> dict[str, Any]:
    """Say what a run is, as JSON data; a state that was kept under other facts isn't its own."""
    options = {name: value for name, value in asdict(run.options).items() if name not in PASSING}
    tensors = {**run.trainee.parameters, **run.trainee.buffers()}
    return {
        **run.facts,
        **options,
        "modalities": run.trainee.modalities.spec,
        "combinations": [[str(combination) for combination in part.combinations] for part in run.parts],
        "weights": [part.drawer.weights.tolist() for part in run.parts],
        "loss": run.objective.describe(),
        "validation": run.validation and run.validation.name,
        "batches": num_batches,
        "processes": num_processes,
        "parameters": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }


def check_loader(name: str, loader: Any, schedule: str = "constant") -> None:
    """Refuse a loader that can be read only once, is empty, or is of unknown length under a schedule that needs it.

    Raises:
        TrainingError: says which.

    >>> check_loader("loader", [])
    Traceback (most recent call last):
    ...
    subsense.errors.TrainingError: loader: expected at least one batch, but it is empty; did drop_last drop it?
    """
    if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
        raise TrainingError(f"{name}: expected a DataLoader or a list of batches, which can be read in every epoch, "
                            f"but found {type(loader).__name__}")  # fmt: skip
    length = length_of(loader)
    if length == 0:
        raise TrainingError(f"{name}: expected at least one batch, but it is empty; did drop_last drop it?")
    if length is None and schedule != "constant":
        raise TrainingError(f"{name}: its length isn't known, so schedule={schedule!r} can't tell where the run ends; "
                            "use schedule='constant'")  # fmt: skip


def length_of(loader: Any) -> int | None:
    """Count a loader's batches; None where it can't tell."""
    try:
        return len(loader)
    except TypeError:
        return None
