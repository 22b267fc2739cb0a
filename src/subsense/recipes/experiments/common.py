"""What the experiments share: facts, means over combinations, the recipe's own adapters as a column."""

from __future__ import annotations

import math
from collections.abc import Iterable

import subsense as ss
from subsense.evaluation.evaluate import adapter_facts, versions
from subsense.evaluation.wording import ABSENT
from subsense.recipes.run.cache import Cell
from subsense.recipes.run.columns import Bench, Column, adapted_column
from subsense.recipes.schema import Contender, Fit, Recipe

Cells = dict[ss.Combination, Cell]


def own_column(bench: Bench) -> Column:
    """Give the column of the recipe's own adapters; it is the one of a comparison that has the same method."""
    recipe = bench.job.recipe
    return adapted_column(bench, Contender(method=recipe.adapt.method).heading, recipe)


def incomplete(bench: Bench) -> tuple[ss.Combination, ...]:
    """Give the combinations that lack something."""
    modalities = bench.robust.modalities
    return tuple(one for one in modalities.combinations() if len(one) < len(modalities))


def facts(bench: Bench, **more: str) -> dict[str, str]:
    """Say what was measured, and with what."""
    recipe, measure = bench.job.recipe, bench.metric
    direction = "more" if measure.higher_is_better else "less"
    unit = " in %" if measure.unit == "fraction" else ""
    return {
        "measure": f"{measure.name}{unit}, {direction} is better",
        **({"counting": measure.convention} if measure.convention else {}),
        "network": f"{recipe.network.name}, {bench.robust.plan.network_parameters:,} parameters",
        "pretrain": _training(recipe.pretrain) if recipe.pretrain else "a checkpoint",
        "train": f"{recipe.train.strategy}, {_training(recipe.train)}",
        **more,
        "missing": f"filled with {adapter_facts(bench.robust).fill}",
        "seed": str(recipe.seed),
        "versions": ", ".join(f"{name} {text}" for name, text in versions().items()),
    }


def _training(part: Fit) -> str:
    return f"{part.epochs} epochs, lr {part.lr:g}, batches of {part.batch_size}"


def mean(cells: Cells, combinations: Iterable[ss.Combination]) -> float | None:
    """Average over combinations; None unless all of them were measured."""
    values = [cells[one].value if one in cells else None for one in combinations]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def scaled(bench: Bench, value: float) -> float:
    """Give a value as charts show it: fractions in percent."""
    return 100 * value if bench.metric.unit == "fraction" else value


def show(bench: Bench, value: float | None) -> str:
    """Write a value as tables do."""
    if value is None:
        return ABSENT
    return f"{100 * value:.1f}" if bench.metric.unit == "fraction" else f"{value:.3f}"


def axis(bench: Bench) -> str:
    """Name the axis of the measure."""
    return bench.metric.name + (" in %" if bench.metric.unit == "fraction" else "")


def is_worse(bench: Bench, one: float, other: float) -> bool:
    """Say whether a value is worse than another one."""
    return one < other if bench.metric.higher_is_better else one > other


def with_adapt(recipe: Recipe, **changes: object) -> Recipe:
    """Give the recipe with another `adapt`."""
    return recipe.model_copy(update={"adapt": recipe.adapt.model_copy(update=changes)})
