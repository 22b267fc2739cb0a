"""One against several missing modalities: how each column degrades as fewer are available."""

from __future__ import annotations

from collections.abc import Mapping

import subsense as ss
from subsense.evaluation.finding import Chart, Finding, Mark, Series
from subsense.evaluation.results import COLUMNS, Column
from subsense.evaluation.wording import show_share
from subsense.recipes.experiments.common import Cells, axis, facts, is_worse, mean, own_column, scaled, show
from subsense.recipes.run.columns import Bench, dedicated_column, fill_column, fine_tuned_column, pretrained_column
from subsense.recipes.run.job import Job

Curves = Mapping[str, Mapping[int, float | None]]
"""Column -> number of available modalities -> mean over the combinations of so many."""


def degradation(job: Job) -> Finding:
    """Measure all columns at every combination, and average over those with the same number of modalities."""
    bench = Bench(job)
    groups = _by_number(bench.robust.modalities.combinations())
    curves = {
        name: {size: mean(cells, group) for size, group in groups.items()} for name, cells in _cells(bench).items()
    }
    crossing = crossing_of(bench, curves)
    return Finding(
        experiment="degradation",
        title=f"{job.data.name}: one against several missing modalities",
        facts=facts(bench, adapters=f"{own_column(bench).name}, {job.recipe.adapt.sharing} sharing"),
        header=("available", "combinations", *(COLUMNS[name] for name in _known(curves)), "recovery"),
        rows=tuple(
            (
                str(size),
                str(len(group)),
                *(show(bench, curves[name][size]) for name in curves),
                _recovery(bench, curves, size),
            )
            for size, group in sorted(groups.items(), reverse=True)
        ),
        says=(_say(crossing, curves, bench),),
        charts=(_chart(bench, curves, crossing),),
    )


def _cells(bench: Bench) -> dict[str, Cells]:
    recipe, combinations = bench.job.recipe, bench.robust.modalities.combinations()
    missing = [one for one in combinations if len(one) < len(bench.robust.modalities)]
    cells = {"pretrained": fill_column(bench, pretrained_column(bench), combinations),
             "adapted": fill_column(bench, own_column(bench), combinations)}  # fmt: skip
    if recipe.pretrain is not None:
        cells["dedicated"] = fill_column(bench, dedicated_column(bench, recipe.pretrain), missing)
    if recipe.evaluate.finetuned is not None:
        column = fine_tuned_column(bench, recipe.evaluate.finetuned)
        cells["fine_tuned"] = fill_column(bench, column, combinations)
    return cells


def _known(curves: Curves) -> list[Column]:
    return [column for column in COLUMNS if column in curves]


def _by_number(combinations: tuple[ss.Combination, ...]) -> dict[int, list[ss.Combination]]:
    groups: dict[int, list[ss.Combination]] = {}
    for combination in combinations:
        groups.setdefault(len(combination), []).append(combination)
    return groups


def crossing_of(bench: Bench, curves: Curves) -> int | None:
    """Give the largest number of available modalities with which adapted is worse than dedicated."""
    for size in sorted(curves["adapted"], reverse=True):
        adapted, dedicated = curves["adapted"][size], curves.get("dedicated", {}).get(size)
        if adapted is not None and dedicated is not None and is_worse(bench, adapted, dedicated):
            return size
    return None


def _recovery(bench: Bench, curves: Curves, size: int) -> str:
    pretrained, adapted = curves["pretrained"][size], curves["adapted"][size]
    dedicated = curves.get("dedicated", {}).get(size)
    if pretrained is None or adapted is None or dedicated is None or not is_worse(bench, pretrained, dedicated):
        return show_share(None)
    return show_share((adapted - pretrained) / (dedicated - pretrained))


def _say(crossing: int | None, curves: Curves, bench: Bench) -> str:
    if "dedicated" not in curves:
        return "The recipe has no `pretrain`, so no dedicated network could be trained to compare with."
    if crossing is None:
        return "The adapted network is at least as good as the dedicated ones at every number of available modalities."
    values = [show(bench, curves[name][crossing]) for name in ("adapted", "dedicated")]
    total = len(bench.robust.modalities)
    return (
        f"From {crossing} of {total} available modalities on, the adapted network is below the dedicated ones: "
        f"{values[0]} against {values[1]} there."
    )


def _chart(bench: Bench, curves: Curves, crossing: int | None) -> Chart:
    series = []
    for name in _known(curves):
        points = {size: scaled(bench, value) for size, value in sorted(curves[name].items()) if value is not None}
        series.append(Series(name=COLUMNS[name], look=name, x=tuple(points), y=tuple(points.values())))
    value = None if crossing is None else curves["adapted"][crossing]
    marks = () if crossing is None or value is None else (
        Mark(x=crossing, y=scaled(bench, value), text="adapted falls below dedicated"),)  # fmt: skip
    total = len(bench.robust.modalities)
    ticks = ("", *map(str, range(1, total + 1)))
    return Chart(x_label=f"available modalities, of {total}", y_label=axis(bench), series=tuple(series), marks=marks,
                 ticks=ticks)  # fmt: skip
