"""What confidence is worth: half of the test part calibrates it, the other half measures it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset

import subsense as ss
from subsense.evaluation.finding import Chart, Finding, Level, Look, Series
from subsense.evaluation.results import Reliability
from subsense.evaluation.wording import ABSENT, MEANINGS
from subsense.recipes.experiments.common import facts, own_column
from subsense.recipes.experiments.halvings import TIMES, mean_coverage
from subsense.recipes.run.columns import Bench, load_or_train, shelf_of
from subsense.recipes.run.job import Job

Found = Mapping[str, Reliability]
Samples = Dataset[Any]
OTHERS = {"groups": "by groups", "trained on": "by training"}
"""How else it is calibrated -> heading of what is covered then."""
INTERVAL = 0.95


def confidence(job: Job, coverage: float = 0.9, risk: float | None = None) -> Finding:
    """Measure coverage and calibration of every combination on rows that calibrated nothing.

    The test part is halved by the seed: row by row, so that both halves are alike (exchangeable). What happens when
    they aren't is shown by coverage after two other calibrations: where rows come in groups of several (subjects,
    videos), on half of the groups, measured on the others; and on the very rows that the network was trained on.

    Args:
        job: the recipe's.
        coverage: the share of rows whose set is to hold the truth.
        risk: the share of wrong answers allowed among those given; None: it answers all.
    """
    bench = Bench(job)
    column = own_column(bench)
    robust = load_or_train(job, shelf_of(bench, column), column.name)
    groups = list(job.data.test.groups)
    splits = {"rows": _halves(len(groups), list(range(len(groups))), job.recipe.seed)}
    if len(set(groups)) < len(groups):
        splits["groups"] = _halves(len(groups), groups, job.recipe.seed)
    test = job.data.test
    parts: dict[str, tuple[Samples, Samples]] = {
        name: (Subset(test, one), Subset(test, other)) for name, (one, other) in splits.items()
    }
    parts["trained on"] = job.data.train, parts["rows"][1]
    found = {name: _measure(bench, robust, *both, coverage, risk) for name, both in parts.items()}
    by_rows, (first, count) = found["rows"], map(len, splits["rows"])
    return Finding(
        experiment="confidence",
        title=f"{job.data.name}: what confidence is worth",
        facts=facts(
            bench,
            confidence=MEANINGS,
            adapters=f"{column.name}, {job.recipe.adapt.sharing} sharing",
            calibrated=f"on {first} rows of the test part, measured on the other {count}",
            coverage=f"{coverage:.0%} asked; {INTERVAL:.0%} binomial interval {_shown(_binomial(count, coverage))}; "
            f"with the draw of the calibrating rows {_shown(_exact(first, count, coverage))}",
            **({"groups": f"{len(set(groups))}, half of which calibrate"} if "groups" in splits else {}),
        ),
        header=("combination", "covered", "set", "ECE", "ECE/T", "floor", "Brier", "Brier/T",
                *(("answers", "wrong") if risk else ()), *(OTHERS[name] for name in found if name in OTHERS)),
        rows=(*(_row(name, {way: some[name] for way, some in found.items()}, risk is not None) for name in by_rows),
              _row("mean", {way: _mean(list(some.values())) for way, some in found.items()}, risk is not None)),
        says=(*_say(found, coverage, first, count), *_say_halved(mean_coverage(job, robust, coverage))),
        charts=(_chart(found, coverage),),
    )  # fmt: skip


def _halves(count: int, groups: Sequence[object], seed: int) -> tuple[list[int], list[int]]:
    """Give the rows that calibrate, and those that measure: half of the groups each."""
    names = sorted(set(groups), key=str)
    random.Random(seed).shuffle(names)
    chosen = set(names[: len(names) // 2])
    return [row for row in range(count) if groups[row] in chosen], [
        row for row in range(count) if groups[row] not in chosen
    ]


def _measure(
    bench: Bench, robust: ss.RobustModel, calibrating: Samples, new: Samples, coverage: float, risk: float | None
) -> dict[str, Reliability]:
    job = bench.job
    first, second = (
        DataLoader(samples, job.recipe.evaluate.batch_size, collate_fn=ss.Collate(job.modalities))
        for samples in (calibrating, new)
    )
    ss.confidence(robust, first, coverage=coverage, risk=risk, ignore_index=job.data.ignore_index)
    results = ss.evaluate(robust, second, metric=bench.metric, columns=["adapted"], progress=False)
    return {row.combination: row.reliability for row in results.rows if row.reliability}


def _shown(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.1%} to {bounds[1]:.1%}"


def _binomial(count: int, coverage: float) -> tuple[float, float]:
    from scipy.stats import binom

    low, high = binom.interval(INTERVAL, count, coverage)
    return low / count, high / count


def _exact(first: int, count: int, coverage: float) -> tuple[float, float]:
    """Give the interval of the law of split conformal coverage, in which the calibrating rows are drawn, too."""
    from scipy.stats import betabinom

    rank = min(first, math.ceil((first + 1) * coverage - 1e-9))
    low, high = betabinom.interval(INTERVAL, count, rank, first + 1 - rank)
    return low / count, high / count


def _row(name: str, found: Found, has_risk: bool) -> tuple[str, ...]:
    one = found["rows"]
    cells = [f"{one.coverage:.1%}", f"{one.set_size:.2f}"]
    cells += [_number(value) for value in (one.ece_before, one.ece, one.ece_floor, one.brier_before, one.brier)]
    cells += [_share(one.answered), _share(one.risk)] if has_risk else []
    cells += [_share(found[way].coverage) for way in OTHERS if way in found]
    return name, *cells


def _mean(some: Sequence[Reliability]) -> Reliability:
    fields = {name: [getattr(one, name) for one in some] for name in Reliability.model_fields}
    means = {name: _average(values) for name, values in fields.items()}
    return Reliability.model_validate(means)


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1%}"


def _say(found: Mapping[str, Found], coverage: float, first: int, count: int) -> tuple[str, ...]:
    some = list(found["rows"].values())
    inside, exact = (
        sum(low - 1e-9 <= one.coverage <= high + 1e-9 for one in some)
        for low, high in (_binomial(count, coverage), _exact(first, count, coverage))
    )
    says = [
        f"Coverage lies in the binomial interval for {inside} of {len(some)} combinations, and for {exact} in the one "
        "that counts the draw of the calibrating rows, too."
    ]
    mean = _mean(some)
    if mean.ece is not None and mean.ece_before:
        says.append(f"The temperatures leave {mean.ece / mean.ece_before:.0%} of the mean calibration error.")
    words = {
        "groups": "Calibrated on some groups and measured on others",
        "trained on": "Calibrated on the rows trained on",
    }
    for way, calibrated in words.items():
        if others := found.get(way):
            shares = [one.coverage for one in others.values()]
            says.append(
                f"{calibrated}, it is {min(shares):.1%} to {max(shares):.1%}, {_average(shares):.1%} on average."
            )
    return tuple(says)


def _say_halved(means: Mapping[str, float]) -> tuple[str, ...]:
    if not means:
        return ()
    low, high = min(means.values()), max(means.values())
    return (f"Over {TIMES} other halvings, row by row, the mean of a combination is {low:.1%} to {high:.1%}.",)


def _chart(found: Mapping[str, Found], coverage: float) -> Chart:
    words: dict[str, tuple[str, Look]] = {
        "rows": ("rows like those", "adapted"),
        "groups": ("other groups", "other"),
        "trained on": ("calibrated on rows trained on", "second"),
    }
    names = list(found["rows"])
    return Chart(
        x_label="combination",
        y_label="coverage in %",
        ticks=tuple(names),
        series=tuple(
            Series(name=words[way][0], look=words[way][1], joined=False, x=tuple(range(len(names))),
                   y=tuple(100 * some[name].coverage for name in names))
            for way, some in found.items()
        ),
        levels=(Level(name="asked", look="pretrained", y=100 * coverage),),
    )  # fmt: skip
