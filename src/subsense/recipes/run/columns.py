"""The columns that tables are made of: what each one trains, and how one of its cells is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from shutil import rmtree
from typing import Any

from torch import nn

import subsense as ss
from subsense.evaluation import metrics
from subsense.evaluation.evaluate import adapter_facts, versions
from subsense.evaluation.measure import Measure as MetricMeasure
from subsense.evaluation.results import AdapterFacts
from subsense.evaluation.results import Column as Measured
from subsense.model.fingerprint import fingerprint
from subsense.recipes.progress import Pace, note
from subsense.recipes.run.cache import Cell, Shelf
from subsense.recipes.run.calibrate import solve_sets
from subsense.recipes.run.job import Job
from subsense.recipes.run.network_file import read_weights, write_weights
from subsense.recipes.run.resolve import fresh_network, load_adapters
from subsense.recipes.run.train import adapt_network, fit_settings, pretrained
from subsense.recipes.schema import Contender, Fit, Recipe

Measure = Callable[[ss.Combination], Cell]

OWN: tuple[Measured, ...] = ("pretrained", "adapted")
"""Columns that need no other network."""


@dataclass(frozen=True)
class Bench:
    """Hold a job whose network is trained, and what its columns have in common."""

    job: Job

    @cached_property
    def robust(self) -> ss.RobustModel:
        """Give the frozen network behind the recipe's fill and call; its adapters are not trained."""
        return adapt_network(self.job, pretrained(self.job))

    @cached_property
    def metric(self) -> MetricMeasure:
        """Give what is measured."""
        data = self.job.data
        return metrics.build(self.job.recipe.evaluate.metric or data.metric, ignore_index=data.ignore_index)

    def origin(self, adapt: bool = True, **parts: Any) -> dict[str, Any]:
        """Say what a column's values depend on; `adapt`: on the pretrained network, too."""
        recipe = self.job.recipe
        common = recipe.model_dump(
            mode="json",
            include={"seed": True, "network": {"name", "options"}, "data": {"name", "options"},
                     "adapt": {"modalities", "call", "fill"}, "evaluate": {"batch_size"}},
        )  # fmt: skip
        network = {"fingerprint": fingerprint(self.robust.network)} if adapt else {}
        own = {name: part.model_dump(mode="json") if isinstance(part, Recipe | Fit) else part
               for name, part in parts.items()}  # fmt: skip
        measure = {"metric": self.metric.name, "convention": self.metric.convention}
        return {**common, **network, **own, **measure, "subsense": versions()["subsense"]}

    def measure(self, robust: ss.RobustModel, combination: ss.Combination, column: str, **baseline: Any) -> Cell:
        """Measure one cell."""
        results = ss.evaluate(
            robust,
            self.job.test_batches(),
            metric=self.metric,
            combinations=[combination],
            columns=[own for own in OWN if own == column],
            progress=False,
            **baseline,
        )
        row = results[str(combination)]
        return Cell(row.value(column), row.count, row.not_finite.get(column, 0), row.intervals.get(column))


@dataclass(frozen=True)
class Column:
    """Hold one column.

    Attributes:
        name: its heading.
        origin: all that its values depend on.
        prepare: trains, or loads, what its cells share; gives what measures a cell.
    """

    name: str
    origin: Mapping[str, Any]
    prepare: Callable[[Shelf], Measure]


def shelf_of(bench: Bench, column: Column) -> Shelf:
    """Give the folder of a column."""
    return Shelf.of(bench.job.columns, column.name, column.origin)


def fill_column(bench: Bench, column: Column, combinations: Iterable[ss.Combination]) -> dict[ss.Combination, Cell]:
    """Measure the cells of a column that are not kept yet, and keep each as soon as it is finished."""
    shelf, asked = shelf_of(bench, column), tuple(combinations)
    kept = {one: cell for one in asked if (cell := shelf.get(one)) is not None}
    if kept:
        note(f"{column.name}: {len(kept)} of {len(asked)} combinations kept from an earlier run")
    if len(kept) < len(asked):
        measure = column.prepare(shelf)
        lacking = [one for one in asked if one not in kept]
        pace = Pace(len(lacking))
        for combination in lacking:
            note(f"{column.name}: {combination} ({pace.left()})")
            kept[combination] = measure(combination)
            shelf.put(combination, kept[combination])
    return {one: kept[one] for one in asked}


def pretrained_column(bench: Bench) -> Column:
    """Give the column of the frozen network on filled inputs."""
    return Column("pretrained", bench.origin(), lambda shelf: partial(_measure_pretrained, bench))


def _measure_pretrained(bench: Bench, combination: ss.Combination) -> Cell:
    return bench.measure(bench.robust, combination, "pretrained")


def dedicated_column(bench: Bench, part: Fit) -> Column:
    """Give the column of networks that are each trained for one combination alone."""
    return Column("dedicated", bench.origin(adapt=False, pretrain=part), partial(_prepare_dedicated, bench, part))


def _prepare_dedicated(bench: Bench, part: Fit, shelf: Shelf) -> Measure:
    def measure(combination: ss.Combination) -> Cell:
        settings = fit_settings(bench.job, part, folder=shelf.state(combination), resume=True)
        make = partial(fresh_network, bench.job.recipe)
        network = ss.train_dedicated(bench.robust, make, combination=combination, **settings)
        return bench.measure(bench.robust, combination, "dedicated", dedicated={combination: network})

    return measure


def fine_tuned_column(bench: Bench, part: Fit) -> Column:
    """Give the column of the whole network, fine-tuned with modality dropout."""
    return Column("fine-tuned", bench.origin(finetuned=part), partial(_prepare_fine_tuned, bench, part))


def _prepare_fine_tuned(bench: Bench, part: Fit, shelf: Shelf) -> Measure:
    file, state = shelf.folder / "network.safetensors", shelf.state("network")
    if not file.exists():
        note(f"fine-tuned: training the whole network with modality dropout, {part.epochs} epochs")
        tuned = ss.finetune(bench.robust, **fit_settings(bench.job, part, folder=state, resume=True))
        write_weights(tuned, file, "fine-tuned")
        rmtree(state)
    network = fresh_network(bench.job.recipe)
    read_weights(network, file)
    return partial(_measure_fine_tuned, bench, network)


def _measure_fine_tuned(bench: Bench, network: nn.Module, combination: ss.Combination) -> Cell:
    return bench.measure(bench.robust, combination, "fine_tuned", finetuned=network)


def adapted_column(bench: Bench, name: str, recipe: Recipe, calibrated: bool = False) -> Column:
    """Give the column of the network with adapter sets, made and trained, or calibrated, as a recipe says."""
    parts = {"adapt", "calibrate" if calibrated else "train"}
    origin = bench.origin(adapters=recipe.model_dump(mode="json", include=parts))
    return Column(name, origin, partial(_prepare_adapted, bench, bench.job.variant(recipe), name, calibrated))


def _prepare_adapted(bench: Bench, job: Job, name: str, calibrated: bool, shelf: Shelf) -> Measure:
    robust = load_or_train(job, shelf, name, calibrated)
    return lambda combination: bench.measure(robust, combination, "adapted")


def load_or_train(job: Job, shelf: Shelf, name: str, calibrated: bool = False) -> ss.RobustModel:
    """Give the adapter sets of a column, trained or calibrated where they are not kept yet."""
    folder, state, network, part = shelf.folder / "adapters", shelf.state("adapters"), pretrained(job), job.recipe.train
    if not (folder / "manifest.json").exists():
        robust = adapt_network(job, network)
        shelf.write("facts.json", adapter_facts(robust).model_dump(mode="json"))
        if calibrated:
            note(f"{name}: calibrating {len(robust.combinations)} combinations")
            solve_sets(job, robust)
        else:
            note(f"{name}: training {len(robust.combinations)} combinations, {part.strategy}, {part.epochs} epochs")
            ss.train(
                robust,
                strategy=part.strategy,
                start=part.start,
                degrade=part.degrade,
                **fit_settings(job, part, folder=state, resume=True),
            )
        ss.save(robust, folder)
        rmtree(state, ignore_errors=True)
        robust.detach()
    return load_adapters(job.recipe, folder, network)


def facts_of(bench: Bench, column: Column) -> AdapterFacts:
    """Say what the adapters of a filled column are."""
    return AdapterFacts.model_validate(shelf_of(bench, column).read("facts.json"))


def variant(recipe: Recipe, contender: Contender) -> Recipe:
    """Give the recipe that trains a contender."""
    changes = {name: value for name in ("lr", "epochs") if (value := getattr(contender, name)) is not None}
    sharing = contender.sharing or recipe.adapt.sharing
    adapt = recipe.adapt.model_copy(update={"method": contender.method, "sharing": sharing})
    return recipe.model_copy(update={"adapt": adapt, "train": recipe.train.model_copy(update=changes)})
