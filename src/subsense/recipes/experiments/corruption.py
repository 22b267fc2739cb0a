"""Sensors that fade: every kind of degradation at every severity, kept, declared missing, or given its quality."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace

from subsense.degradation import find
from subsense.evaluation.finding import Chart, Finding, Look, Series
from subsense.recipes.experiments.common import axis, facts, is_worse, own_column, scaled, show
from subsense.recipes.experiments.corrupted import SEVERITIES, Corrupted, CorruptedCell, make_degrader
from subsense.recipes.experiments.watched import alarms, learn, told
from subsense.recipes.run.cache import Shelf
from subsense.recipes.run.columns import Bench, adapted_column, load_or_train, shelf_of
from subsense.recipes.run.job import Job
from subsense.support.files import write_atomically

TRAINED_ON = ("noise", "gain", "dropped", "occlusion", "lost-words")
"""Kinds that the sets of the last column see in training where none are asked for; the others are held out."""
WAYS: dict[str, tuple[str, Look]] = {
    "kept": ("kept as it is", "pretrained"),
    "missing": ("declared missing", "dedicated"),
    "better": ("better of both", "fine_tuned"),
    "quality": ("quality given", "second"),
    "trained": ("quality given, trained over severities", "adapted"),
    "auto": ("found by a monitor", "other"),
    "auto-trained": ("found by a monitor, trained over severities", "third"),
}
"""What is done about a modality that fades -> heading and look; ``"better"`` is chosen cell by cell, in hindsight."""
Cells = Sequence[CorruptedCell]


def corruption(job: Job, trained_on: Sequence[str] | None = None, kinds: Sequence[str] | None = None) -> Finding:
    """Measure what to do about a modality that fades, for every kind that fits it, at every severity.

    One modality at a time is degraded, in each combination of several that the recipe's ``evaluate`` asks for. All
    cells go to ``experiments/corruption.csv``.

    Args:
        job: the recipe's.
        trained_on: kinds that the sets of the last column are trained with, at severities uniform in (0, 5).
        kinds: those to measure; all by default.

    Raises:
        InputError: an unknown kind, or none that fits.
    """
    bench, seen = Bench(job), tuple(trained_on or TRAINED_ON)
    work = _prepare(bench, seen)
    cells = [_with_better(bench, cell) for cell in work.cells(kinds)]
    table = job.folder / "experiments" / "corruption.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(table, _as_csv(cells).encode())
    held_out = [cell for cell in cells if cell.kind not in seen]
    healthy = {one: values["plain"] for one, values in work.healthy().items()}
    return Finding(
        experiment="corruption",
        title=f"{job.data.name}: sensors that fade",
        facts=facts(
            bench,
            adapters=f"{own_column(bench).name}, {job.recipe.adapt.sharing} sharing",
            **{
                "trained over severities of": ", ".join(seen),
                "cells": f"{len(cells)}: one modality degraded in a combination of several, at severities 1 to 5",
                "false alarms": _false_alarms(work),
                "rows of severities and combinations": "held-out kinds",
            },
        ),
        header=("mean over cells", "cells", *(heading for heading, _ in WAYS.values())),
        rows=(
            *(_row(bench, f"{kind}{' (trained)' * (kind in seen)}", some) for kind, some in _by("kind", cells)),
            *(_row(bench, f"severity {level}", some) for level, some in _by("severity", held_out)),
            *(_row(bench, name, some) for name, some in _by("combination", held_out)),
            _row(bench, "held-out kinds", held_out),
            _row(bench, "all kinds", cells),
        ),
        says=(_say(bench, held_out or cells),),
        charts=tuple(
            _chart(bench, title, some, healthy)
            for title, some in (("held-out kinds", held_out), ("kinds trained on", _seen(cells, seen)))
            if some
        ),
    )


def check_kinds(names: Iterable[str]) -> None:
    """Raise `InputError` for an unknown degradation."""
    for name in names:
        find(name)


def _prepare(bench: Bench, seen: Sequence[str]) -> Corrupted:
    """Train what isn't kept: the recipe's own sets, and those that see degradations."""
    recipe = bench.job.recipe
    kinds = {name: tuple(map(str, some)) for name, some in make_degrader(bench, seen).kinds.items()}
    train = recipe.train.model_copy(update={"degrade": kinds, "strategy": "joint"})
    variant = recipe.model_copy(update={"train": train})
    plain = own_column(bench)
    faded = adapted_column(bench, f"{plain.name}, degraded", variant)
    shelves = shelf_of(bench, plain), shelf_of(bench, faded)
    asked = recipe.evaluate.combinations
    origin = bench.origin(sets=[shelf.folder.name for shelf in shelves], combinations=asked)
    own = load_or_train(bench.job, shelves[0], plain.name)
    other = load_or_train(bench.job.variant(variant), shelves[1], faded.name)
    for robust in (own, other):
        learn(bench, robust, seen)
    return Corrupted(bench, own, other, Shelf.of(bench.job.columns, "corruption", origin))


def _false_alarms(work: Corrupted) -> str:
    """Say how often the monitor doubts healthy input of the test part."""
    assert work.plain.monitor is not None
    rung, looked = alarms(work.plain, work.bench.job.test_batches())
    return told(rung, looked, work.plain.monitor.false_alarms) if looked else "nothing is watched"


def _with_better(bench: Bench, cell: CorruptedCell) -> CorruptedCell:
    kept, missing = cell.values["kept"], cell.values["missing"]
    return replace(cell, values={**cell.values, "better": missing if is_worse(bench, kept, missing) else kept})


def _seen(cells: Cells, seen: Sequence[str]) -> Cells:
    return [cell for cell in cells if cell.kind in seen]


def _by(what: str, cells: Cells) -> list[tuple[str, Cells]]:
    values = dict.fromkeys(getattr(cell, what) for cell in cells)
    return [(str(value), [cell for cell in cells if getattr(cell, what) == value]) for value in values]


def _mean(cells: Cells, way: str) -> float:
    return math.fsum(cell.values[way] for cell in cells) / len(cells) if cells else float("nan")


def _row(bench: Bench, name: str, cells: Cells) -> tuple[str, ...]:
    return name, str(len(cells)), *(show(bench, _mean(cells, way) if cells else None) for way in WAYS)


def _say(bench: Bench, cells: Cells) -> str:
    def value(way: str) -> str:
        return show(bench, _mean(cells, way))

    below = [
        name for name, some in _by("kind", cells) if is_worse(bench, _mean(some, "trained"), _mean(some, "better"))
    ]
    return (
        f"On kinds that no training saw: kept as they are {value('kept')}, declared missing {value('missing')}, the "
        f"better of both in each cell {value('better')}, with their quality given {value('quality')}, trained over "
        f"severities {value('trained')}, which is below the better of both for {', '.join(below) or 'no kind'}. Where "
        f"nothing but a monitor says how good the input is: {value('auto')}, trained over severities "
        f"{value('auto-trained')}."
    )


def _chart(bench: Bench, title: str, cells: Cells, healthy: dict[str, float]) -> Chart:
    levels = {severity: [cell for cell in cells if cell.severity == severity] for severity in SEVERITIES}
    start = math.fsum(healthy[cell.combination] for cell in cells) / len(cells)
    series = tuple(
        Series(
            name=heading,
            look=look,
            x=(*(() if way == "missing" else (0,)), *SEVERITIES),
            y=tuple(
                scaled(bench, value)
                for value in (*(() if way == "missing" else (start,)), *(_mean(some, way) for some in levels.values()))
            ),
        )
        for way, (heading, look) in WAYS.items()
    )
    return Chart(title=title, x_label="severity", y_label=axis(bench), series=series)


def _as_csv(cells: Cells) -> str:
    """Write every cell: modality, kind, severity, combination, and a column for each way."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["modality", "kind", "severity", "combination", *WAYS])
    writer.writerows([*astuple(cell)[:4], *(f"{cell.values[way]:.6g}" for way in WAYS)] for cell in cells)
    return text.getvalue()
