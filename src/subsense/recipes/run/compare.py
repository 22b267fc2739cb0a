"""Measuring a job's network with its adapter sets, beside baselines, and methods side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from shutil import rmtree
from typing import Any

import subsense as ss
from subsense.evaluation.evaluate import asked_for, network_facts, versions
from subsense.evaluation.results import AdapterFacts, Column, Results, Row
from subsense.recipes.progress import note
from subsense.recipes.run.cache import Cell
from subsense.recipes.run.columns import (
    Bench,
    adapted_column,
    dedicated_column,
    facts_of,
    fill_column,
    fine_tuned_column,
    pretrained_column,
    variant,
)
from subsense.recipes.run.job import Job
from subsense.recipes.run.train import plan_network

Cells = dict[ss.Combination, Cell]


def measure(
    job: Job,
    robust: ss.RobustModel,
    columns: Collection[Column] = ("pretrained", "adapted"),
    compare: bool = True,
    beside: Mapping[str, ss.RobustModel] | None = None,
) -> Results:
    """Measure what the recipe asks for; the baselines to compare with are trained first, where they are not kept."""
    bench, part = Bench(job), job.recipe.evaluate
    given = baselines(bench) if compare else {}
    results = ss.evaluate(
        robust,
        job.test_batches(),
        metric=bench.metric,
        combinations=part.combinations,
        columns=columns,
        dedicated=_values(given.get("dedicated", {})),
        finetuned=_values(given.get("fine_tuned", {})),
        compared=beside,
        seed=job.recipe.seed,
        title=job.data.name,
    )
    rows = [row.model_copy(update={"intervals": row.intervals | _intervals(given, row.combination)})
            for row in results.rows]  # fmt: skip
    return results.model_copy(update={"rows": tuple(rows)})


def compare(job: Job) -> Results:
    """Measure the recipe's methods side by side with the baselines, every combination of them."""
    bench = Bench(job)
    asked = asked_for(bench.robust.modalities, job.recipe.evaluate.combinations)
    cells: dict[str, Cells] = {"pretrained": fill_column(bench, pretrained_column(bench), asked), **baselines(bench)}
    compared: dict[str, Cells] = {}
    facts: dict[str, AdapterFacts] = {}
    for contender in job.recipe.compare:
        column = adapted_column(bench, contender.heading, variant(job.recipe, contender), contender.calibrated)
        compared[column.name] = fill_column(bench, column, asked)
        facts[column.name] = facts_of(bench, column)
    return assemble(bench, asked, cells, compared, facts)


def check_comparison(job: Job) -> None:
    """Find out what is wrong with the methods to compare before anything is trained."""
    for contender in job.recipe.compare:
        recipe = variant(job.recipe, contender)
        plan_network(recipe)
        if not contender.calibrated and recipe.train.strategy == "separate" and recipe.adapt.sharing == "additive":
            raise ss.PlanError(
                f"compare: {contender.heading}: train.strategy 'separate' needs sharing 'independent', but found "
                "'additive': its rows are shared, so one combination would change the others; use strategy 'joint'"
            )


def forget(job: Job) -> None:
    """Throw away what earlier comparisons and evaluations kept."""
    if job.columns.exists():
        note(f"throwing away {job.columns}")
        rmtree(job.columns)


def baselines(bench: Bench) -> dict[str, Cells]:
    """Measure the baselines that the recipe asks for."""
    recipe, modalities = bench.job.recipe, bench.robust.modalities
    part, cells = recipe.evaluate, {}
    asked = asked_for(modalities, part.combinations)
    if part.dedicated is not None and recipe.pretrain is not None:
        chosen = [one for one in modalities.select(part.dedicated) if one in asked]
        cells["dedicated"] = fill_column(bench, dedicated_column(bench, recipe.pretrain), chosen)
    if part.finetuned is not None:
        cells["fine_tuned"] = fill_column(bench, fine_tuned_column(bench, part.finetuned), asked)
    return cells


def assemble(
    bench: Bench,
    asked: Collection[ss.Combination],
    cells: Mapping[str, Cells],
    compared: Mapping[str, Cells],
    facts: Mapping[str, AdapterFacts],
) -> Results:
    """Make results of cells: those of the usual columns, and those of what is compared."""
    counts = {one: cell.count for column in (*cells.values(), *compared.values()) for one, cell in column.items()}
    values: dict[ss.Combination, dict[str, Any]] = {
        one: {name: column[one].value for name, column in cells.items() if one in column} for one in asked
    }
    rows = [
        Row(
            combination=str(one),
            count=counts[one],
            compared={name: column[one].value for name, column in compared.items() if one in column},
            not_finite={
                name: column[one].num_not_finite
                for name, column in {**cells, **compared}.items()
                if one in column and column[one].num_not_finite
            },
            intervals={
                name: interval
                for name, column in {**cells, **compared}.items()
                if one in column and (interval := column[one].interval)
            },
            **values[one],
        )
        for one in asked
        if counts.get(one)
    ]
    return Results(
        title=bench.job.data.name,
        metric=bench.metric.name,
        convention=bench.metric.convention,
        higher_is_better=bench.metric.higher_is_better,
        unit=bench.metric.unit,
        modalities=bench.robust.modalities.spec,
        network=network_facts(bench.robust),
        compared=dict(facts),
        seed=bench.job.recipe.seed,
        versions=versions(),
        rows=tuple(rows),
    )


def _intervals(given: Mapping[str, Cells], combination: str) -> dict[str, tuple[float, float]]:
    """Give the intervals of the baselines of a combination; they were measured before, so `evaluate` has none."""
    return {
        column: cell.interval
        for column, cells in given.items()
        for one, cell in cells.items()
        if str(one) == combination and cell.interval
    }


def _values(cells: Cells) -> dict[ss.Combination, float]:
    return {one: cell.value for one, cell in cells.items() if cell.value is not None}
