"""A job: a recipe, its data, and the folder that it writes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import subsense as ss
from subsense import data
from subsense.modalities.filling import Filling
from subsense.recipes.progress import note
from subsense.recipes.reading import load_recipe
from subsense.recipes.run.fills import make_fill
from subsense.recipes.schema import Recipe
from subsense.support.factories import call_factory


@dataclass(frozen=True)
class Job:
    """Hold a recipe, where its data lie, and the folder that it writes to.

    Attributes:
        name: what the user called the recipe.
        root: goes before the recipe's `data.root`.
    """

    name: str
    recipe: Recipe
    root: Path | None
    folder: Path

    @property
    def network_file(self) -> Path:
        """Give the file of the network's weights, where the recipe has no checkpoint."""
        return self.folder / "network.safetensors"

    @property
    def adapters(self) -> Path:
        """Give the folder of the adapter sets."""
        return self.folder / "adapters"

    @property
    def trained(self) -> Path:
        """Give the file which says that the adapter sets are complete, and what they were trained with."""
        return self.folder / "trained.json"

    @property
    def calibrated(self) -> Path:
        """Give the folder of the calibrated adapter sets."""
        return self.folder / "calibrated"

    @property
    def state(self) -> Path:
        """Give the folder from which a stopped training goes on; it is there while one is under way."""
        return self.folder / "state"

    @property
    def results_file(self) -> Path:
        """Give the file of what was measured."""
        return self.folder / "results.json"

    @property
    def columns(self) -> Path:
        """Give the folder of what comparisons trained and measured."""
        return self.folder / "columns"

    def variant(self, recipe: Recipe) -> Job:
        """Give the same job by a recipe that differs in more than its data, on the data that are loaded already."""
        other = replace(self, recipe=recipe)
        other.__dict__["data"] = self.data
        return other

    @cached_property
    def data(self) -> data.Data:
        """Load the data once.

        Raises:
            DataError: they are absent.
            RecipeError: the recipe doesn't fit them.
            ModalityError: what the recipe fills in does not fit their inputs.
        """
        loaded = _load_data(self.recipe, self.root)
        for one in loaded.notes:
            note(one)
        _check_combinations(self.name, self.recipe, loaded)
        fill = make_fill(self.name, self.recipe.adapt.fill, loaded.fills)
        Filling(ss.Modalities(self.recipe.adapt.modalities or loaded.modalities), fill)
        return loaded

    @property
    def modalities(self) -> Mapping[str, Any]:
        """Give the modalities that the recipe declares, or else the data's."""
        return self.recipe.adapt.modalities or self.data.modalities

    def batches(self, size: int) -> DataLoader[Any]:
        """Give the training samples in shuffled batches; the order comes from the seed."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        return DataLoader(self.data.train, size, shuffle=True, generator=generator, **self._loading)

    def test_batches(self) -> DataLoader[Any]:
        """Give the test samples in order."""
        return DataLoader(self.data.test, self.recipe.evaluate.batch_size, **self._loading)

    @property
    def _loading(self) -> dict[str, Any]:
        """Say how batches are made: by how many processes, and of samples that may lack modalities."""
        return {"num_workers": self.recipe.data.workers, "collate_fn": ss.Collate(self.modalities)}


def open_job(
    name: str, root: Path | None = None, output: Path | None = None, changes: Iterable[str] | None = None
) -> Job:
    """Read a recipe, and set the number of threads it asks for; command line options go before what it says.

    Raises:
        RecipeError: the recipe is at fault.
    """
    recipe = load_recipe(name, changes or ())
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return Job(name, recipe, root, output or Path(recipe.output))


def _load_data(recipe: Recipe, root: Path | None) -> data.Data:
    part = recipe.data
    place = root or part.root
    options = part.options if place is None else {**part.options, "root": place}
    if part.name in data.DATASETS:
        return data.load(part.name, **options)
    made = _make_data(part.name, options)
    if not isinstance(made, data.Data):
        raise ss.DataError(f"{part.name}: expected it to return a subsense.data.Data, but found {type(made).__name__}")
    return made


def _make_data(name: str, options: Mapping[str, Any]) -> Any:
    """Call the user's own factory."""
    advice = "" if "root" in options else " No root was given: if it needs one, say data.root or --root."
    return call_factory(name, options, ss.DataError, advice)


def _check_combinations(name: str, recipe: Recipe, loaded: data.Data) -> None:
    """Refuse combinations that the modalities do not have, all of them at once."""
    modalities = ss.Modalities(recipe.adapt.modalities or loaded.modalities)
    given = {
        "adapt.combinations": recipe.adapt.combinations,
        "evaluate.combinations": recipe.evaluate.combinations,
        "evaluate.dedicated": recipe.evaluate.dedicated or "all",
    }
    faults = [
        f"{key}: {fault}" for key, asked in given.items() if asked != "all" for fault in _faults(modalities, asked)
    ]
    if faults:
        raise ss.RecipeError(name, faults)


def _faults(modalities: ss.Modalities, asked: Iterable[str]) -> Iterator[str]:
    for combination in asked:
        try:
            modalities.combination(combination)
        except ss.ModalityError as error:
            yield str(error)
