"""The cells of the corruption experiment: each measured once, and kept as soon as it is finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import subsense as ss
from subsense.degradation import DEGRADATIONS, MOST, Degrader, find
from subsense.degradation.layout import layout_of
from subsense.evaluation.evaluate import asked_for
from subsense.modalities.loaders import available, split
from subsense.recipes.experiments.watched import watched
from subsense.recipes.progress import note
from subsense.recipes.run.cache import Shelf
from subsense.recipes.run.columns import Bench
from subsense.training.seeding import derive_seed

WATCHED = {"plain": "auto", "faded": "auto-trained"}
SEVERITIES = tuple(range(1, MOST + 1))
Values = dict[str, dict[str, float]]
"""Combination -> sets (``"plain"`` or ``"faded"``) -> value."""


@dataclass(frozen=True)
class CorruptedCell:
    """Hold what was measured of one combination with one modality degraded.

    Attributes:
        values: what is done about it -> value: ``"kept"``, ``"missing"`` (declared so), ``"quality"`` (given, to sets
            trained on healthy sensors), ``"trained"`` (given, to sets trained over severities), ``"auto"`` and
            ``"auto-trained"`` (found by a monitor, for either).
    """

    modality: str
    kind: str
    severity: int
    combination: str
    values: Mapping[str, float]


def make_degrader(bench: Bench, kinds: Collection[str]) -> Degrader:
    """Make a degrader of the training part, for the modalities of which it is known how they fail."""
    modalities, batches = bench.robust.modalities, bench.job.batches(bench.job.recipe.evaluate.batch_size)
    chosen: dict[str, list[str]] = {}
    for name, modality in modalities.items():
        try:
            layout = layout_of(name, next(iter(modality.parts.values())))
        except ss.ModalityError as error:
            note(f"corruption: {error}")
            continue
        if fitting := [kind for kind in kinds if layout.has(find(kind).form)]:
            chosen[name] = fitting
    if not chosen:
        raise ss.InputError(f"corruption: none of {', '.join(kinds)} fits a modality of {', '.join(modalities)}")
    return Degrader(modalities, batches, kinds=chosen)


@dataclass(frozen=True)
class Corrupted:
    """Measure sets trained on healthy sensors, `plain`, and sets trained over severities, `faded`, side by side.

    Both have a monitor.
    """

    bench: Bench
    plain: ss.RobustModel
    faded: ss.RobustModel
    shelf: Shelf

    def cells(self, kinds: Sequence[str] | None = None) -> Iterator[CorruptedCell]:
        """Give every cell: modality x kind x severity x combination asked for that has the modality and others."""
        degrader, rest = make_degrader(self.bench, kinds or tuple(DEGRADATIONS)), self.healthy()
        for modality, fitting in degrader.kinds.items():
            for kind in map(str, fitting):
                note(f"corruption: {modality}, {kind}")
                for severity in SEVERITIES:
                    found = self._degraded(degrader, modality, kind, severity)
                    watched = self._watched(Degraded(self.bench, degrader, modality, kind, severity))
                    for combination, values in found.items():
                        without = rest["+".join(one for one in combination.split("+") if one != modality)]
                        ends = {
                            "missing": without["plain"],
                            "quality": without["plain"],
                            "trained": without["faded"],
                        }
                        auto = {WATCHED[sets]: value for sets, value in watched[combination].items()}
                        yield CorruptedCell(modality, kind, severity, combination, ends | values | auto)

    def healthy(self) -> Values:
        """Give what both reach with each combination where nothing is degraded."""
        combinations = self.bench.robust.modalities.combinations()
        return self._kept("healthy", lambda: self._evaluate(self.bench.job.test_batches(), combinations))

    def _degraded(self, degrader: Degrader, modality: str, kind: str, severity: int) -> Values:
        combinations = self.combinations(modality)

        def measure() -> Values:
            batches = Degraded(self.bench, degrader, modality, kind, severity)
            kept = self._evaluate(batches, combinations)
            if severity == MOST:  # a quality of 0: never read, so it is as if missing
                return {one: {"kept": values["plain"]} for one, values in kept.items()}
            given = self._evaluate(WithQuality(batches), combinations)
            return {
                one: {"kept": values["plain"], "quality": given[one]["plain"], "trained": given[one]["faded"]}
                for one, values in kept.items()
            }

        return self._kept(f"{modality}/{kind}-{severity}", measure)

    def _watched(self, batches: Degraded) -> Values:
        """Give what both reach where their monitors find out how good the input is."""
        name = f"watched/{batches.modality}/{batches.kind}-{batches.severity}"
        return self._kept(name, lambda: watched(self, batches, self.combinations(batches.modality)))

    def combinations(self, modality: str) -> list[ss.Combination]:
        """Give the combinations asked for that have a modality and others."""
        asked = asked_for(self.bench.robust.modalities, self.bench.job.recipe.evaluate.combinations)
        return [one for one in asked if modality in one and len(one) > 1]

    def _kept(self, name: str, measure: Callable[[], Values]) -> Values:
        if (found := self.shelf.read(f"cells/{name}.json")) is None:
            self.shelf.write(f"cells/{name}.json", found := measure())
        return found

    def _evaluate(self, loader: Iterable[Any], combinations: Sequence[ss.Combination]) -> Values:
        compared = {"faded": self.faded} if not isinstance(loader, Degraded) else None
        results = ss.evaluate(
            self.plain, loader, metric=self.bench.metric, combinations=combinations, columns=["adapted"],
            compared=compared, progress=False,
        )  # fmt: skip
        given = {"plain": "adapted", **({"faded": "faded"} if compared else {})}
        return {row.combination: {ours: value for ours, theirs in given.items()
                                  if (value := row.value(theirs)) is not None}
                for row in results.rows}  # fmt: skip


@dataclass(frozen=True)
class Degraded:
    """Give the test part's batches with one modality of every row degraded; the same each time."""

    bench: Bench
    degrader: Degrader
    modality: str
    kind: str
    severity: int

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.bench.job.test_batches()):
            inputs, target = split(batch)
            seed = derive_seed(
                self.bench.job.recipe.seed, "corruption", self.modality, self.kind, self.severity, number
            )
            yield self.degrader.apply(inputs, self.modality, self.kind, self.severity, seed=seed), target


@dataclass(frozen=True)
class WithQuality:
    """Give degraded batches that say so: 1 - severity / 5 for the modality, in ``"present"``."""

    batches: Degraded

    def __iter__(self) -> Iterator[Any]:
        modalities = self.batches.bench.robust.modalities
        quality = 1 - self.batches.severity / MOST
        for inputs, target in self.batches:
            present = available(modalities, inputs) * modalities.quality(
                {name: quality if name == self.batches.modality else 1.0 for name in modalities}
            )
            yield {**inputs, "present": present}, target
