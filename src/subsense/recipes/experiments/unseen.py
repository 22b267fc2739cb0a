"""Combinations not seen in training: some are left out, and served by the nearest set, or by summed rows."""

from __future__ import annotations

from collections.abc import Sequence

import subsense as ss
from subsense.evaluation.finding import Chart, Finding, Look, Series
from subsense.recipes.experiments.common import Cells, axis, facts, incomplete, mean, scaled, show, with_adapt
from subsense.recipes.run.columns import Bench, adapted_column, fill_column, pretrained_column
from subsense.recipes.run.job import Job
from subsense.recipes.schema import Recipe

LOOKS: dict[str, Look] = {
    "pretrained": "pretrained",
    "nearest": "second",
    "additive": "adapted",
    "independent, all trained": "third",
    "additive, all trained": "dedicated",
}


def unseen(job: Job, left_out: Sequence[str] | None) -> Finding:
    """Train without some combinations, and measure these beside those that were trained."""
    bench = Bench(job)
    combinations = incomplete(bench)
    absent = check_left_out(bench.robust.modalities, left_out)
    trained = tuple(one for one in combinations if one not in absent)
    cells = _cells(bench, trained)
    means = {name: (mean(column, trained), mean(column, absent)) for name, column in cells.items()}
    return Finding(
        experiment="unseen",
        title=f"{job.data.name}: combinations not seen in training",
        facts=facts(bench, trained=", ".join(map(str, trained)), **{"left out": ", ".join(map(str, absent))}),
        header=("combination", "trained", *cells),
        rows=(
            *(_row(bench, cells, one, one in trained) for one in combinations),
            ("mean (trained)", "", *(show(bench, seen) for seen, _ in means.values())),
            ("mean (left out)", "", *(show(bench, never_seen) for _, never_seen in means.values())),
        ),
        says=(_say({name: show(bench, never_seen) for name, (_, never_seen) in means.items()}),),
        charts=(_chart(bench, means),),
    )  # fmt: skip


def _row(bench: Bench, cells: dict[str, Cells], one: ss.Combination, is_trained: bool) -> tuple[str, ...]:
    values = [show(bench, column[one].value) for column in cells.values()]
    return str(one), "yes" if is_trained else "no", *values


def _say(reached: dict[str, str]) -> str:
    return (
        f"On the combinations left out: nearest set {reached['nearest']}, summed rows {reached['additive']}, "
        f"frozen {reached['pretrained']}; trained on all, additive reaches {reached['additive, all trained']} there."
    )


def check_left_out(modalities: ss.Modalities, asked: Sequence[str] | None) -> tuple[ss.Combination, ...]:
    """Give the combinations to leave out: those asked for, or every second incomplete one.

    Raises:
        PlanError: nothing is left to train, or a modality is present in all that is: its row would never be trained.
    """
    combinations = [one for one in modalities.combinations() if len(one) < len(modalities)]
    absent = tuple(map(modalities.combination, asked)) if asked else tuple(combinations[1::2])
    trained = [one for one in combinations if one not in absent]
    untrained = [name for name in modalities if all(name in one for one in trained)]
    if untrained:
        raise ss.PlanError(
            f"leaving out {', '.join(map(str, absent))}: {', '.join(untrained)} would never be missing in training, so "
            "no set could learn to go without; leave out fewer. With two modalities nothing can be left out"
        )
    return absent


def _cells(bench: Bench, trained: tuple[ss.Combination, ...]) -> dict[str, Cells]:
    recipe = bench.job.recipe
    joint = recipe.model_copy(update={"train": recipe.train.model_copy(update={"strategy": "joint"})})
    some = tuple(map(str, trained))
    ways: dict[str, Recipe] = {
        "nearest": with_adapt(joint, sharing="independent", combinations=some, untrained="nearest"),
        "additive": with_adapt(joint, sharing="additive", combinations=some, untrained="error"),
        "independent, all trained": with_adapt(joint, sharing="independent", combinations="all"),
        "additive, all trained": with_adapt(joint, sharing="additive", combinations="all"),
    }
    combinations = incomplete(bench)
    cells = {name: fill_column(bench, adapted_column(bench, name, way), combinations) for name, way in ways.items()}
    return {"pretrained": fill_column(bench, pretrained_column(bench), combinations), **cells}


def _chart(bench: Bench, means: dict[str, tuple[float | None, float | None]]) -> Chart:
    series = []
    for name, pair in means.items():
        values = {x: scaled(bench, value) for x, value in enumerate(pair) if value is not None}
        labels = tuple(
            f"{value:.1f}" if bench.metric.unit == "fraction" else f"{value:.2f}" for value in values.values()
        )
        series.append(Series(name=name, look=LOOKS[name], x=tuple(values), y=tuple(values.values()), labels=labels))
    return Chart(x_label="mean over combinations that were", y_label=axis(bench), series=tuple(series), kind="bars",
                 ticks=("trained", "left out"))  # fmt: skip
