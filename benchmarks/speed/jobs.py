"""What is measured, in which order: the most important first. Two threads only where threads change the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks import absent_branch
from benchmarks.speed import figures, growth, small
from benchmarks.speed.measuring import Effort
from benchmarks.speed.networks import CASES, Case

TWO_MODALITIES = "cmnext"  # three combinations: no 15 to choose from
LATE_FUSION = [f"late fusion, {count} {kind}" for kind in ("convolutional", "transformers") for count in (2, 4, 8)]
ABSENT = [*LATE_FUSION, "cmnext B2, 2 modalities"]
GROWTH = [(number, sharing) for number in (2, 3, 4, 6, 8) for sharing in ("independent", "additive")]


@dataclass(frozen=True)
class Job:
    """Hold one figure of one network with so many threads, and what measures it."""

    figure: str
    network: str
    threads: int
    run: Callable[[], Any]


def jobs(networks: Sequence[str], threads: Sequence[int], device: str, quick: bool) -> list[Job]:
    """List what is to be measured of these networks; growth and absent branches have networks of their own."""
    cases = {name: _small(CASES[name]()) if quick else CASES[name]() for name in networks}
    effort = Effort(2, 0.0) if quick else Effort()
    found: list[Job] = []
    for number in threads:
        found += _timed(cases, number, device, effort)
        if number == threads[0]:
            found += [
                *_small_networks(quick),
                Job("import / torch", "none", 1, partial(figures.importing, effort)),
                *_counted(cases, device, effort),
                *_growth(device, quick),
                *_absent(device, quick),
            ]
    return found


def _timed(cases: Mapping[str, Case], threads: int, device: str, effort: Effort) -> Iterator[Job]:
    many = {name: case for name, case in cases.items() if name != TWO_MODALITIES}
    for figure, measure, chosen in (
        ("training step / floor", figures.training_step, cases),
        ("inference / frozen", figures.inference, cases),
        ("mixed batch / frozen", figures.mixed_batch, many),
        ("quality / nothing missing", figures.quality, many),
    ):
        for name, case in chosen.items():
            yield Job(figure, name, threads, partial(measure, case, device, effort))


def _small_networks(quick: bool) -> Iterator[Job]:
    effort = Effort(2, 0.0) if quick else Effort(5, 5.0)
    for name in small.SMALL:
        yield Job("small network, step / all weights", name, 1, partial(small.training_step, name, effort))


def _counted(cases: Mapping[str, Case], device: str, effort: Effort) -> Iterator[Job]:
    many = {name: case for name, case in cases.items() if name != TWO_MODALITIES}
    switches = dataclasses.replace(effort, rounds=2)
    for name, case in cases.items():
        yield Job("memory", name, 1, partial(figures.memory, case, device))
    for name, case in many.items():
        yield Job("switching", name, 1, partial(figures.switching, case, device, switches))
        yield Job("handling, ms", name, 1, partial(figures.handling, case, device))
    for name, case in many.items():
        if case.sizes:
            yield Job("few combinations / frozen", name, 1, partial(figures.few_combinations, case, device, effort))
        if case.compiles:
            yield Job("graphs", name, 1, partial(figures.graphs, case, device))


def _growth(device: str, quick: bool) -> Iterator[Job]:
    effort = Effort(2, 0.0) if quick else Effort(7, 2.0)
    for number, sharing in GROWTH[:4] if quick else GROWTH:
        yield Job("growth", f"segformer, {number}", 1, partial(growth.growth, number, sharing, device, effort))
    for number in (2, 3) if quick else range(2, 9):
        yield Job("size", f"vilt, {number}", 1, partial(growth.size, number))


def _absent(device: str, quick: bool) -> Iterator[Job]:
    if device != "cpu":  # its networks and clock are the CPU's
        return
    for name in (ABSENT[0], ABSENT[-1]) if quick else ABSENT:
        yield Job("absent branch / frozen", name, 1, partial(_absent_one, name, 1 if quick else 15))


def _absent_one(name: str, rounds: int) -> list[dict[str, Any]]:
    return [asdict(row) for row in absent_branch.measure(name, absent_branch.CASES[name], rounds)]


def _small(case: Case) -> Case:
    return dataclasses.replace(case, batch=2, sizes=dict.fromkeys(case.sizes, 64))
