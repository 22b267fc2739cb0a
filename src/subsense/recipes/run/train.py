"""From network to adapter sets: plan, pretrain, adapt, train, load."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import nn

import subsense as ss
from subsense.recipes.progress import is_first, note
from subsense.recipes.run.fills import make_fill
from subsense.recipes.run.job import Job, open_job
from subsense.recipes.run.network_file import read_weights, write_weights
from subsense.recipes.run.resolve import fresh_network, load_adapters, make_call, make_layers, make_loss, make_methods
from subsense.recipes.run.together import by_first
from subsense.recipes.schema import Fit, Recipe
from subsense.training import TrainingReport, baselines


def plan_network(recipe: Recipe) -> ss.Plan:
    """Find the sites of the recipe's network; raise `PlanError` before anything is trained."""
    part = recipe.adapt
    return ss.plan(
        fresh_network(recipe),
        make_methods(recipe),
        include=part.include,
        merge=part.merge,
        exclude=part.exclude,
        layers=make_layers(recipe),
    )


def check(job: Job) -> None:
    """Find out what is wrong with recipe, network and data before anything is changed."""
    plan_network(job.recipe)
    _ = job.data  # loading it checks it


def start(job: Job) -> None:
    """Make room for a new training; raise `TrainingError` where a stopped one would be lost."""
    if job.state.exists():
        raise ss.TrainingError(
            f"{job.state} holds a training that was stopped: go on with --resume, or write elsewhere with --output, "
            "or delete it"
        )
    by_first(lambda: _clear(job))


def _clear(job: Job) -> None:
    job.network_file.unlink(missing_ok=True)
    job.trained.unlink(missing_ok=True)


def is_trained(job: Job) -> bool:
    """Say whether the adapter sets of this very recipe are complete."""
    return job.trained.exists() and job.trained.read_text("utf-8") == _origin_of_sets(job.recipe)


def pretrain(job: Job) -> nn.Module:
    """Give the network with its weights: from a file where there is one, else trained on all modalities and saved."""
    if job.recipe.network.checkpoint or job.network_file.exists():
        return pretrained(job)
    part = job.recipe.pretrain
    assert part is not None, "the schema asks for pretrain where there is no checkpoint"
    note(f"training {job.recipe.network.name} on all modalities, {part.epochs} epochs")
    network = fresh_network(job.recipe)
    settings = fit_settings(job, part, folder=job.state / "pretrain", resume=True)
    baselines.pretrain(network, job.modalities, call=make_call(job.recipe), **settings)
    by_first(lambda: write_weights(network, job.network_file, _origin(job.recipe)))
    return network


def ensure_network(job: Job) -> None:
    """Train the network where there is none, and leave no state behind but that of stopped adapter sets."""
    pretrain(job)
    if not (job.state / "train").exists():
        rmtree(job.state, ignore_errors=True)


def pretrained(job: Job) -> nn.Module:
    """Give the network with the weights that are kept; raise `CheckpointError` where there are none."""
    network = fresh_network(job.recipe)
    if job.recipe.network.checkpoint:
        read_weights(network, Path(job.recipe.network.checkpoint))
    elif job.network_file.exists():
        read_weights(network, job.network_file, _origin(job.recipe))
    else:
        raise ss.MissingFile(f"{job.network_file}: no such file; first run: subsense train {job.name}")
    return network


def adapt_network(job: Job, network: nn.Module) -> ss.RobustModel:
    """Adapt a network as the recipe says; nothing is trained yet."""
    part = job.recipe.adapt
    return ss.adapt(
        network,
        job.modalities,
        call=make_call(job.recipe),
        method=make_methods(job.recipe),
        sharing=part.sharing,
        combinations=part.combinations,
        fill=make_fill(job.name, part.fill, job.data.fills, lambda: job.batches(job.recipe.evaluate.batch_size)),
        untrained=part.untrained,
        include=part.include,
        exclude=part.exclude,
        layers=make_layers(job.recipe),
        seed=job.recipe.seed,
        merge=part.merge,
    )


def train_sets(job: Job, robust: ss.RobustModel) -> TrainingReport:
    """Train the adapter sets as the recipe says, from where a stopped training is; save them."""
    part = job.recipe.train
    note(f"training the adapter sets of {len(robust.combinations)} combinations, {part.strategy}, {part.epochs} epochs")
    settings = fit_settings(job, part, folder=job.state / "train", resume=True)
    report = ss.train(robust, strategy=part.strategy, start=part.start, degrade=part.degrade, **settings)
    by_first(lambda: _keep(job, robust))
    return report


def _keep(job: Job, robust: ss.RobustModel) -> None:
    ss.save(robust, job.adapters)
    job.trained.write_text(_origin_of_sets(job.recipe), "utf-8")
    rmtree(job.state)


def load_sets(job: Job, network: nn.Module) -> ss.RobustModel:
    """Load the adapter sets that `train_sets` saved; raise `CheckpointError` where there are none of this recipe."""
    if not job.trained.exists():
        raise ss.MissingFile(f"{job.trained}: no such file; first run: subsense train {job.name}")
    if not is_trained(job):
        raise ss.CheckpointError(
            f"{job.adapters}: trained by a recipe with another seed, adapt or train; run `subsense train` again, or "
            "choose another --output"
        )
    return load_adapters(job.recipe, job.adapters, network)


def open_model(
    recipe: str, root: Path | None = None, output: Path | None = None, changes: list[str] | None = None
) -> ss.RobustModel:
    """Give what `subsense train` saved for a recipe: the network with its adapter sets, in eval mode.

    Raises:
        CheckpointError: nothing was trained, or by another recipe.
    """
    job = open_job(recipe, root, output, changes)
    return load_sets(job, pretrained(job)).eval()


def fit_settings(job: Job, part: Fit, **more: Any) -> dict[str, Any]:
    """Give the keywords that all functions which train share."""
    return {"loader": job.batches(part.batch_size), "loss": make_loss(part.loss), "seed": job.recipe.seed,
            "progress": sys.stderr.isatty() and is_first(), **part.options, **more}  # fmt: skip


def _origin(recipe: Recipe) -> str:
    """Say as JSON what a network's weights depend on."""
    parts = recipe.model_dump(include={"seed", "network", "data", "pretrain"}, exclude={"data": {"root", "workers"}})
    return json.dumps(parts, sort_keys=True)


def _origin_of_sets(recipe: Recipe) -> str:
    """Say as JSON what adapter sets depend on, besides the network."""
    return recipe.model_dump_json(include={"seed", "adapt", "train"}, indent=2)
