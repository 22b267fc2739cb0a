"""A recipe at work: what `plan`, `train`, `evaluate`, `fold` and `demo` share."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

import subsense as ss
from subsense import baselines, data, metrics, reporting, zoo
from subsense.adapters import METHODS, Adapter
from subsense.calling import CallSpec
from subsense.cli.console import note
from subsense.cli.fills import make_fill
from subsense.cli.weights import read_weights, write_weights
from subsense.factories import import_factory
from subsense.layers import DECLARATIONS, Declaration
from subsense.recipe import LOSSES, Fit, Loss, Recipe, load_recipe
from subsense.results import Column
from subsense.training import TrainingReport

REPORTS = (".md", ".png", ".html")
NUM_EXAMPLES = 6


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
    def state(self) -> Path:
        """Give the folder from which a stopped training goes on; it is there while one is under way."""
        return self.folder / "state"

    @property
    def results_file(self) -> Path:
        """Give the file of what was measured."""
        return self.folder / "results.json"

    @cached_property
    def data(self) -> data.Data:
        """Load the data once; raise `DataError` where they are absent, `RecipeError` where the recipe doesn't fit."""
        loaded = _load_data(self.recipe, self.root)
        _check_combinations(self.name, self.recipe, loaded)
        make_fill(self.name, self.recipe.adapt.fill, loaded.fills)
        return loaded

    @property
    def modalities(self) -> Mapping[str, Any]:
        """Give the modalities that the recipe declares, or else the data's."""
        return self.recipe.adapt.modalities or self.data.modalities

    def batches(self, size: int) -> DataLoader[Any]:
        """Give the training samples in shuffled batches; the order comes from the seed."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        workers = self.recipe.data.workers
        return DataLoader(self.data.train, size, shuffle=True, generator=generator, num_workers=workers)

    def test_batches(self) -> DataLoader[Any]:
        """Give the test samples in order."""
        return DataLoader(self.data.test, self.recipe.evaluate.batch_size, num_workers=self.recipe.data.workers)


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


# ---- what the recipe names


def _load_data(recipe: Recipe, root: Path | None) -> data.Data:
    part = recipe.data
    place = root or part.root
    options = part.options if place is None else {**part.options, "root": place}
    if part.name in data.DATASETS:
        return data.load(part.name, **options)
    made = import_factory(part.name)(**options)
    if not isinstance(made, data.Data):
        raise ss.DataError(f"{part.name}: expected it to return a subsense.data.Data, but found {type(made).__name__}")
    return made


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


def fresh_network(recipe: Recipe) -> nn.Module:
    """Make the recipe's network with weights drawn from its seed; torch's own generator is left as it was."""
    part = recipe.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if part.name in zoo.NETWORKS:
            return zoo.build(part.name, **part.options)
        made = import_factory(part.name)(**part.options)
    if not isinstance(made, nn.Module):
        raise ss.RecipeError(part.name, [f"expected it to return a torch.nn.Module, but found {type(made).__name__}"])
    return made


def make_loss(loss: Loss) -> Any:
    """Make the loss that a recipe names."""
    options = {name: make_loss(value) if isinstance(value, Loss) else value for name, value in loss.options.items()}
    return import_factory(LOSSES.get(loss.name, loss.name))(**options)


def make_methods(recipe: Recipe) -> list[Adapter]:
    """Make the methods that a recipe names."""
    return [METHODS[method.name](**method.options) for method in recipe.adapt.method]


def make_layers(recipe: Recipe) -> list[Declaration]:
    """Make the declarations of layer classes that a recipe gives."""
    return [
        DECLARATIONS[one.name](**{**one.options, "cls": import_factory(one.options["cls"])})
        for one in recipe.adapt.layers
    ]


def make_call(recipe: Recipe) -> CallSpec:
    """Give how the network is called, a function imported where the recipe names one."""
    call = recipe.adapt.call
    return import_factory(call) if isinstance(call, str) and ":" in call else call


# ---- from network to sets


def plan_network(recipe: Recipe) -> ss.Plan:
    """Find the sites of the recipe's network; raise `PlanError` before anything is trained."""
    part = recipe.adapt
    return ss.plan(
        fresh_network(recipe),
        make_methods(recipe),
        include=part.include,
        exclude=part.exclude,
        layers=make_layers(recipe),
    )


def check(job: Job) -> None:
    """Find out what is wrong with recipe, network and data before anything is changed."""
    plan_network(job.recipe)
    job.data  # noqa: B018 - loading it checks it


def start(job: Job) -> None:
    """Make room for a new training; raise `TrainingError` where a stopped one would be lost."""
    if job.state.exists():
        raise ss.TrainingError(
            f"{job.state} holds a training that was stopped: go on with --resume, or write elsewhere with --output, "
            "or delete it"
        )
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
    settings = _settings(job, part, folder=job.state / "pretrain", resume=True)
    baselines.pretrain(network, job.modalities, call=make_call(job.recipe), **settings)
    write_weights(network, job.network_file, _origin(job.recipe))
    return network


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
    )


def train_sets(job: Job, robust: ss.RobustModel) -> TrainingReport:
    """Train the adapter sets as the recipe says, from where a stopped training is; save them."""
    part = job.recipe.train
    note(f"training the adapter sets of {len(robust.combinations)} combinations, {part.strategy}, {part.epochs} epochs")
    settings = _settings(job, part, folder=job.state / "train", resume=True)
    report = ss.train(robust, strategy=part.strategy, **settings)
    ss.save(robust, job.adapters)
    job.trained.write_text(_origin_of_sets(job.recipe), "utf-8")
    rmtree(job.state)
    return report


def load_sets(job: Job, network: nn.Module) -> ss.RobustModel:
    """Load the adapter sets that `train_sets` saved; raise `CheckpointError` where there are none of this recipe."""
    if not job.trained.exists():
        raise ss.MissingFile(f"{job.trained}: no such file; first run: subsense train {job.name}")
    if not is_trained(job):
        raise ss.CheckpointError(
            f"{job.adapters}: trained by a recipe with another seed, adapt or train; run `subsense train` again, or "
            "choose another --output"
        )
    call = make_call(job.recipe)
    return ss.load(job.adapters, network, call=call if callable(call) else None)


def _settings(job: Job, part: Fit, **more: Any) -> dict[str, Any]:
    """Give the keywords that all functions which train share."""
    return {"loader": job.batches(part.batch_size), "loss": make_loss(part.loss), "seed": job.recipe.seed,
            "progress": sys.stderr.isatty(), **part.options, **more}  # fmt: skip


def _origin(recipe: Recipe) -> str:
    """Say as JSON what a network's weights depend on."""
    parts = recipe.model_dump(include={"seed", "network", "data", "pretrain"}, exclude={"data": {"root", "workers"}})
    return json.dumps(parts, sort_keys=True)


def _origin_of_sets(recipe: Recipe) -> str:
    """Say as JSON what adapter sets depend on, besides the network."""
    return recipe.model_dump_json(include={"seed", "adapt", "train"}, indent=2)


# ---- measuring


def measure(
    job: Job, robust: ss.RobustModel, columns: Collection[Column] = ("pretrained", "adapted"), compare: bool = True
) -> ss.Results:
    """Measure what the recipe asks for; the baselines to compare with are trained first."""
    part = job.recipe.evaluate
    return ss.evaluate(
        robust,
        job.test_batches(),
        metric=metrics.build(part.metric or job.data.metric, ignore_index=job.data.ignore_index),
        combinations=part.combinations,
        columns=columns,
        dedicated=train_dedicated(job, robust) if compare else None,
        finetuned=finetune(job, robust) if compare else None,
        seed=job.recipe.seed,
        title=job.data.name,
    )


def train_dedicated(job: Job, robust: ss.RobustModel) -> dict[str, nn.Module]:
    """Train a network for each combination that the recipe wants one for."""
    asked, part = job.recipe.evaluate.dedicated, job.recipe.pretrain
    if asked is None or part is None:
        return {}
    chosen = robust.modalities.select(asked)
    networks = {}
    for number, combination in enumerate(chosen, 1):
        note(f"training a network for {combination} alone ({number} of {len(chosen)}), {part.epochs} epochs")
        settings = _settings(job, part)
        make = partial(fresh_network, job.recipe)
        networks[str(combination)] = ss.train_dedicated(robust, make, combination=combination, **settings)
    return networks


def finetune(job: Job, robust: ss.RobustModel) -> nn.Module | None:
    """Fine-tune a copy of the whole network with modality dropout, where the recipe wants it."""
    part = job.recipe.evaluate.finetuned
    if part is None:
        return None
    note(f"fine-tuning the whole network with modality dropout, {part.epochs} epochs")
    return ss.finetune(robust, **_settings(job, part))


def check_kept(job: Job, robust: ss.RobustModel) -> dict[str, str]:
    """Load everything back from the files and fold every set; say how the outputs on a test batch compare."""
    inputs = next(iter(job.test_batches()))[0]
    robust, loaded = robust.eval(), load_sets(job, pretrained(job)).eval()
    with torch.no_grad():
        same = all(
            torch.equal(*(_output(one, inputs, what) for one in (robust, loaded))) for what in robust.combinations
        )
        distance = max(_fold_distance(robust, inputs, what) for what in robust.combinations)
    return {
        "loaded": "outputs are equal" if same else "OUTPUTS DIFFER",
        "folded": f"outputs differ by at most {distance:.1e} of the greatest",
    }


def _output(robust: ss.RobustModel, inputs: Mapping[str, Any], combination: ss.Combination) -> Any:
    return robust({name: inputs[name] for name in combination})


def _fold_distance(robust: ss.RobustModel, inputs: Mapping[str, Any], combination: ss.Combination) -> float:
    args, kwargs = ss.prepare(robust, {name: inputs[name] for name in combination})
    expected = _output(robust, inputs, combination)
    found = ss.fold(robust, combination).eval()(*args, **kwargs)
    return float((found - expected).abs().max() / expected.abs().max())


# ---- showing and shipping


def describe(job: Job, robust: ss.RobustModel) -> str:
    """Say what was adapted and how, in two lines."""
    planned = robust.plan
    methods = ", ".join(adapter.name for adapter in planned.adapters)
    return "\n".join([
        f"network   {job.recipe.network.name}, {planned.network_parameters:,} parameters, frozen",
        f"adapters  {methods} at {len(planned.sites)} sites, {robust.sharing} sharing: {len(robust.router.row_names)} "
        f"rows of {planned.parameters_per_row:,} parameters serve {len(robust.combinations)} combinations",
    ])  # fmt: skip


def write_reports(job: Job, robust: ss.RobustModel, results: ss.Results) -> list[Path]:
    """Write results as JSON, Markdown, picture and page into the job's folder."""
    examples = reporting.collect_examples(
        robust,
        _spread(job.data.test),
        class_names=job.data.class_names,
        combinations=job.recipe.evaluate.combinations,
    )
    files = [reporting.report(results, job.results_file.with_suffix(suffix), examples) for suffix in REPORTS]
    return [results.save(job.results_file), *files]


def _spread(samples: Any) -> list[Any]:
    """Choose some samples from all over a data set."""
    count = min(NUM_EXAMPLES, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def write_folded(job: Job, robust: ss.RobustModel, combination: str, file: Path, drop_absent: bool = False) -> None:
    """Fold a combination's set and write the network in the form that the file's ending names."""
    with _quiet_exporters():
        match file.suffix:
            case ".onnx":
                ss.fold(robust, combination, onnx=file, example=_one_row(job), drop_absent=drop_absent)
            case ".pt2":
                ss.fold(robust, combination, export=file, example=_one_row(job), drop_absent=drop_absent)
            case _:
                write_weights(ss.fold(robust, combination), file, f"folded: {combination}")


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Keep torch from telling of its own deprecations, and of packages that nobody asked for."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _one_row(job: Job) -> Any:
    return default_collate([job.data.test[0]])[0]
