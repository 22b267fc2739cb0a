"""Adapter sets of a recipe, solved in closed form."""

from __future__ import annotations

import json
import sys

from torch import nn

import subsense as ss
from subsense.recipes.progress import note
from subsense.recipes.run.job import Job
from subsense.recipes.run.resolve import load_adapters
from subsense.recipes.run.train import adapt_network, load_sets
from subsense.recipes.schema import Recipe
from subsense.support.files import write_atomically

ORIGIN = "calibrated.json"
"""File which says that calibrated sets are complete, and how they were solved."""


def calibrated_recipe(recipe: Recipe) -> Recipe:
    """Give the recipe with the method and sharing that its `calibrate` has."""
    part = recipe.calibrate
    changes = {"method": part.method, "sharing": part.sharing}
    adapt = recipe.adapt.model_copy(update={name: value for name, value in changes.items() if value is not None})
    return recipe.model_copy(update={"adapt": adapt})


def solve_sets(job: Job, robust: ss.RobustModel) -> ss.CalibrationReport:
    """Calibrate a model on the recipe's training inputs; their labels aren't read."""
    batches = job.batches(job.recipe.evaluate.batch_size)
    return ss.calibrate(robust, batches, seed=job.recipe.seed, progress=sys.stderr.isatty(),
                        **job.recipe.calibrate.options)  # fmt: skip


def calibrate_sets(job: Job, network: nn.Module) -> tuple[ss.RobustModel, ss.CalibrationReport]:
    """Solve the adapter sets as the recipe says, and save them."""
    robust = adapt_network(job.variant(calibrated_recipe(job.recipe)), network)
    file = job.folder / ORIGIN
    file.unlink(missing_ok=True)
    note(f"calibrating the adapter sets of {len(robust.combinations)} combinations")
    report = solve_sets(job, robust)
    ss.save(robust, job.calibrated)
    write_atomically(file, _origin(job.recipe).encode())
    return robust, report


def is_calibrated(job: Job) -> bool:
    """Say whether calibrated sets of this very recipe are kept."""
    file = job.folder / ORIGIN
    return file.exists() and file.read_text("utf-8") == _origin(job.recipe)


def load_calibrated(job: Job, network: nn.Module) -> ss.RobustModel:
    """Load the sets that `calibrate_sets` saved, or those that were trained where there are none."""
    if not is_calibrated(job):
        return load_sets(job, network)
    return load_adapters(calibrated_recipe(job.recipe), job.calibrated, network)


def _origin(recipe: Recipe) -> str:
    parts = recipe.model_dump(mode="json", include={"seed", "network", "pretrain", "adapt", "calibrate"})
    return json.dumps(parts, sort_keys=True, indent=2)
