"""Sets solved in closed form against trained ones: what they reach in how much time, and from how many rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import subsense as ss
from subsense.evaluation.finding import Chart, Finding, Level, Look, Series
from subsense.recipes.experiments.common import axis, facts, incomplete, mean, scaled, show, with_adapt
from subsense.recipes.run.cache import Shelf
from subsense.recipes.run.calibrate import solve_sets
from subsense.recipes.run.columns import (
    Bench,
    Column,
    Measure,
    adapted_column,
    fill_column,
    pretrained_column,
    shelf_of,
)
from subsense.recipes.run.job import Job
from subsense.recipes.run.train import adapt_network, pretrained
from subsense.recipes.schema import Method, Recipe

RANKS = (4, 8)
SSF, SHIFT = Method(name="ssf"), Method(name="shift")
FILE = "seconds.json"


def calibration(job: Job, asked: Sequence[int] = ()) -> Finding:
    """Measure the frozen network, sets solved with shift, scale and shift, and ranks, trained ones, and both.

    Args:
        job: the recipe's; sets that are solved are those of each combination alone.
        asked: numbers of unlabelled rows to solve with, at the lowest of the ranks; by default 16, 32, ... all.
    """
    bench, count = Bench(job), len(job.data.train)
    numbers = [*(asked or doubled(count)), *([] if asked else [count])]
    ways = [_measured(bench, way) for way in _ways(job.recipe, count)]
    some = [_measured(bench, _solved(job.recipe, f"{number} rows", RANKS[0], number)) for number in numbers]
    frozen = mean(fill_column(bench, pretrained_column(bench), incomplete(bench)), incomplete(bench))
    return Finding(
        experiment="calibration",
        title=f"{job.data.name}: sets solved in closed form, and trained",
        facts=facts(bench, time="processor time to make all sets, with the network trained",
                    mean=f"over {len(incomplete(bench))} incomplete combinations"),
        header=("sets", "labels", "seconds", axis(bench)),
        rows=(
            ("frozen", "", "0", show(bench, frozen)),
            *((one.name, one.labels, _words(one.seconds), show(bench, one.value)) for one in ways),
            *((f"calibrated: rank {RANKS[0]}, {one.name}", "no", _words(one.seconds), show(bench, one.value))
              for one in some),
        ),
        says=(_say(bench, ways),),
        charts=(_against_time(bench, ways, frozen), _against_rows(bench, some, numbers, frozen), _by_site(bench)),
    )  # fmt: skip


def doubled(count: int) -> list[int]:
    """Give 16, 32, ... below `count`.

    >>> doubled(100)
    [16, 32, 64]
    """
    return [16 << step for step in range(count.bit_length()) if 16 << step < count]


@dataclass(frozen=True)
class _Way:
    """Hold one way to make sets, and what came out."""

    name: str
    labels: str
    recipe: Recipe
    look: Look
    value: float | None = None
    seconds: float | None = None


def _ways(recipe: Recipe, count: int) -> Iterator[_Way]:
    yield replace(_solved(recipe, "calibrated: shift", None, count), recipe=_with(recipe, (SHIFT,), count))
    yield _solved(recipe, "calibrated: scale + shift", None, count)
    for rank in RANKS:
        yield _solved(recipe, f"calibrated: rank {rank}", rank, count)
    yield _Way("trained", "yes", _starting(recipe, None), "fine_tuned")
    yield _Way("calibrated, then trained", "yes", _starting(recipe, "calibrated"), "dedicated")


def _solved(recipe: Recipe, name: str, rank: int | None, rows: int) -> _Way:
    low = () if rank is None else (Method(name="lora", options={"rank": rank}),)
    return _Way(name, "no", _with(recipe, (SSF, *low), rows), "adapted")


def _with(recipe: Recipe, methods: tuple[Method, ...], rows: int) -> Recipe:
    part = recipe.calibrate.model_copy(update={"rows": rows, "held_out": 0.0, "method": None, "sharing": None})
    return with_adapt(recipe, method=methods, sharing="independent").model_copy(update={"calibrate": part})


def _starting(recipe: Recipe, start: str | None) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"start": start})})


def _measured(bench: Bench, way: _Way) -> _Way:
    """Make the sets, or take those that are kept, and measure them."""
    column = adapted_column(bench, way.name, way.recipe, calibrated=way.labels == "no")
    timed = replace(column, prepare=lambda shelf: _timed(column, shelf))
    value = mean(fill_column(bench, timed, incomplete(bench)), incomplete(bench))
    kept: dict[str, Any] = shelf_of(bench, column).read(FILE) or {}
    return replace(way, value=value, seconds=kept.get("seconds"))


def _timed(column: Column, shelf: Shelf) -> Measure:
    """Make the sets; what a run that was stopped had done, or another verb, isn't in the time, so there is none."""
    is_fresh = not (shelf.folder / "adapters").exists() and not shelf.state("adapters").exists()
    start = time.process_time()
    measure = column.prepare(shelf)
    if is_fresh:
        shelf.write(FILE, {"seconds": time.process_time() - start})
    return measure


def _words(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{seconds:.1f}"


def _say(bench: Bench, ways: Sequence[_Way]) -> str:
    reached = "; ".join(f"{one.name} {show(bench, one.value)} in {_words(one.seconds)} s" for one in ways)
    return f"Mean over incomplete combinations: {reached}."


def _against_time(bench: Bench, ways: Sequence[_Way], frozen: float | None) -> Chart:
    known = [one for one in ways if one.value is not None and one.seconds]
    series = tuple(
        Series(name=name, look=some[0].look, x=tuple(one.seconds or 0.0 for one in some),
               y=tuple(scaled(bench, one.value or 0.0) for one in some), joined=False,
               labels=tuple(one.name.removeprefix("calibrated: ") for one in some))
        for name, labels in (("without labels", "no"), ("with labels", "yes"))
        if (some := [one for one in known if one.labels == labels])
    )  # fmt: skip
    return Chart(title="mean over incomplete combinations", x_label="seconds of processor time", y_label=axis(bench),
                 series=series, levels=_frozen(bench, frozen), log_x=True)  # fmt: skip


def _against_rows(bench: Bench, some: Sequence[_Way], numbers: Sequence[int], frozen: float | None) -> Chart:
    known = [(number, one.value) for number, one in zip(numbers, some, strict=True) if one.value is not None]
    series = Series(name=f"rank {RANKS[0]}", look="adapted", x=tuple(number for number, _ in known),
                    y=tuple(scaled(bench, value) for _, value in known))  # fmt: skip
    return Chart(title="mean over incomplete combinations", x_label="unlabelled rows", y_label=axis(bench),
                 series=(series,), levels=_frozen(bench, frozen), log_x=True)  # fmt: skip


def _frozen(bench: Bench, value: float | None) -> tuple[Level, ...]:
    return () if value is None else (Level(name="frozen", look="pretrained", y=scaled(bench, value)),)


def _by_site(bench: Bench) -> Chart:
    """Draw what comes back at each site, in the order of the plan: means over combinations, by what is lost there."""
    job = bench.job
    recipe = _with(job.recipe, (SSF, Method(name="lora", options={"rank": RANKS[0]})), len(job.data.train))
    part = recipe.calibrate.model_copy(update={"held_out": 0.2})
    variant = job.variant(recipe.model_copy(update={"calibrate": part}))
    robust = adapt_network(variant, pretrained(job))
    report = solve_sets(variant, robust)
    robust.detach()
    fields = {"scale + shift": "channels", f"rank {RANKS[0]}": "low_rank", "any linear map": "linear"}
    curves = {name: _means(report, robust, field) for name, field in fields.items()}
    looks: tuple[Look, ...] = ("second", "adapted", "dedicated")
    series = tuple(
        Series(name=name, look=look, x=tuple(points), y=tuple(points.values()))
        for look, (name, points) in zip(looks, curves.items(), strict=True)
    )
    return Chart(title=f"by site, on {report.held_out} rows held out", x_label="site, in the order of the plan",
                 y_label="% of what is lost there", series=series)  # fmt: skip


def _means(report: ss.CalibrationReport, robust: ss.RobustModel, field: str) -> dict[int, float]:
    found = {}
    for number, site in enumerate(robust.plan.sites, 1):
        cells = [one for (_, key), one in report.sites.items() if key == site.key and 0 < one.lost < float("inf")]
        weight = sum(one.lost for one in cells)
        if weight:
            found[number] = 100 * sum(one.lost * getattr(one, field) for one in cells) / weight
    return found
