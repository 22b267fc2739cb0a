"""SSF against LoRA: accuracy against parameters, over LoRA's ranks."""

from __future__ import annotations

from collections.abc import Sequence

import subsense as ss
from subsense.evaluation.finding import Chart, Finding, Level, Series
from subsense.evaluation.results import COLUMNS, Column
from subsense.recipes.experiments.common import axis, facts, incomplete, is_worse, mean, scaled, show
from subsense.recipes.run.columns import (
    Bench,
    adapted_column,
    dedicated_column,
    facts_of,
    fill_column,
    pretrained_column,
    variant,
)
from subsense.recipes.run.job import Job
from subsense.recipes.schema import Contender
from subsense.support.tables import format_share


def ranks(job: Job, asked: Sequence[int]) -> Finding:
    """Train SSF and LoRA of each rank as the recipe says, and set their mean against what a set costs."""
    bench = Bench(job)
    combinations = incomplete(bench)
    methods = ["ssf", *({"lora": {"rank": rank}} for rank in asked)]
    contenders = [Contender.model_validate({"method": method}) for method in methods]
    points: dict[str, tuple[int, float]] = {}
    for contender in contenders:
        column = adapted_column(bench, contender.heading, variant(job.recipe, contender))
        value = mean(fill_column(bench, column, combinations), combinations)
        points[column.name] = (facts_of(bench, column).num_per_row, float("nan") if value is None else value)
    baselines = _baselines(bench, combinations)
    total = bench.robust.plan.network_parameters
    return Finding(
        experiment="ranks",
        title=f"{job.data.name}: SSF against LoRA",
        facts=facts(bench, sharing=job.recipe.adapt.sharing, mean=f"over {len(combinations)} incomplete combinations"),
        header=("method", "parameters (set)", "% of the network", axis(bench)),
        rows=(
            *((COLUMNS[name], *_cost(name, total), show(bench, value)) for name, value in baselines.items()),
            *(
                (name, f"{size:,}", format_share(size / total), show(bench, value))
                for name, (size, value) in points.items()
            ),
        ),
        says=(_say(bench, points),),
        charts=(_chart(bench, points, baselines),),
    )


def _baselines(bench: Bench, combinations: tuple[ss.Combination, ...]) -> dict[Column, float | None]:
    """Give the means of the frozen network, and of dedicated ones where the recipe wants all of them."""
    recipe = bench.job.recipe
    cells = {"pretrained": fill_column(bench, pretrained_column(bench), combinations)}
    if recipe.evaluate.dedicated == "all" and recipe.pretrain is not None:
        cells["dedicated"] = fill_column(bench, dedicated_column(bench, recipe.pretrain), combinations)
    return {name: mean(cells[name], combinations) for name in COLUMNS if name in cells}


def _cost(column: Column, total: int) -> tuple[str, str]:
    return ("0", "0%") if column == "pretrained" else (f"{total:,}", "100%")


def _say(bench: Bench, points: dict[str, tuple[int, float]]) -> str:
    size, value = points["ssf"]
    better = [name for name, (_, other) in points.items() if name != "ssf" and is_worse(bench, value, other)]
    return f"SSF, {size:,} parameters: {show(bench, value)}. Better: {', '.join(better) or 'none of the ranks'}."


def _chart(bench: Bench, points: dict[str, tuple[int, float]], baselines: dict[Column, float | None]) -> Chart:
    lora = {name: point for name, point in points.items() if name != "ssf"}
    series = (
        Series(name="LoRA", look="other", x=tuple(size for size, _ in lora.values()),
               y=tuple(scaled(bench, value) for _, value in lora.values()),
               labels=tuple(name.replace("lora (", "").rstrip(")") for name in lora)),
        Series(name="SSF", look="adapted", x=(points["ssf"][0],), y=(scaled(bench, points["ssf"][1]),), joined=False),
    )  # fmt: skip
    known = {name: value for name, value in baselines.items() if value is not None}
    levels = tuple(Level(name=COLUMNS[name], look=name, y=scaled(bench, value)) for name, value in known.items())
    return Chart(title="mean over incomplete combinations", x_label="parameters of one set", y_label=axis(bench),
                 series=series, levels=levels, log_x=True)  # fmt: skip
