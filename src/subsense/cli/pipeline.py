"""A recipe at work: what `plan`, `train`, `evaluate`, `fold` and `demo` share."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

from subsense import data, metrics, reporting, zoo
from subsense.adapters import METHODS, Adapter
from subsense.baselines import finetune as finetune_network
from subsense.baselines import train_dedicated as train_alone
from subsense.calling import CallSpec
from subsense.checkpoint import load_adapters, save_adapters
from subsense.cli.console import note
from subsense.cli.weights import read_weights, write_weights
from subsense.errors import CheckpointError, DataError, MissingFile, ModalityError, RecipeError, TrainingError
from subsense.evaluation import evaluate
from subsense.factories import import_factory
from subsense.filling import Mean
from subsense.folding import fold, prepare
from subsense.modalities import Combination, Modalities
from subsense.model import RobustModel, adapt
from subsense.plan import Plan, plan
from subsense.recipe import LOSSES, Loss, Recipe, load_recipe
from subsense.results import Column, Results
from subsense.training import TrainingReport, train

FORMS = (".md", ".png", ".html")
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
    def state(self) -> Path:
        """Give the folder from which a stopped training goes on."""
        return self.folder / "training"

    @property
    def finished(self) -> Path:
        """Give the file which says that the adapter sets are complete, and what they were trained with."""
        return self.folder / "trained.json"

    @property
    def results_file(self) -> Path:
        """Give the file of what was measured."""
        return self.folder / "results.json"

    @cached_property
    def data(self) -> data.Data:
        """Load the data once; raise `DataError` where they are not there, `RecipeError` where the recipe doesn't fit them."""
        loaded = _load_data(self.recipe, self.root)
        _check_combinations(self.name, self.recipe, loaded)
        return loaded

    @property
    def modalities(self) -> Modalities:
        """Give the modalities that the recipe declares, or else the data's."""
        return Modalities(self.recipe.adapt.modalities or self.data.modalities)

    def batches(self, size: int) -> DataLoader[Any]:
        """Give the training samples in shuffled batches; the order comes from the seed."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        return DataLoader(self.data.train, size, shuffle=True, generator=generator)

    def test_batches(self) -> DataLoader[Any]:
        """Give the test samples in order."""
        return DataLoader(self.data.test, self.recipe.evaluate.batch_size)


def open_job(name: str, root: Path | None = None, output: Path | None = None, changes: Iterable[str] | None = None) -> Job:
    """Read a recipe; command line options go before what it says. Raise `RecipeError` where it is at fault."""
    recipe = load_recipe(name, changes or ())
    return Job(name, recipe, root, output or Path(recipe.output))


# ------------------------------------------------------------------------------------------------ what the recipe names


def _load_data(recipe: Recipe, root: Path | None) -> data.Data:
    part = recipe.data
    place = root or part.root
    options = part.options if place is None else {**part.options, "root": place}
    if part.name in data.DATASETS:
        return data.load(part.name, **options)
    made = import_factory(part.name)(**options)
    if not isinstance(made, data.Data):
        raise DataError(f"{part.name}: expected it to return a subsense.data.Data, but found {type(made).__name__}")
    return made


def _check_combinations(name: str, recipe: Recipe, loaded: data.Data) -> None:
    """Refuse combinations that the modalities do not have, all of them at once."""
    modalities = Modalities(recipe.adapt.modalities or loaded.modalities)
    given = {
        "adapt.combinations": recipe.adapt.combinations,
        "evaluate.combinations": recipe.evaluate.combinations,
        "evaluate.dedicated": recipe.evaluate.dedicated or "all",
    }
    faults = [
        f"{key}: {fault}" for key, asked in given.items() if asked != "all" for fault in _faults(modalities, asked)
    ]
    if faults:
        raise RecipeError(name, faults)


def _faults(modalities: Modalities, asked: Iterable[str]) -> Iterator[str]:
    for combination in asked:
        try:
            modalities.combination(combination)
        except ModalityError as error:
            yield str(error)


def fresh_network(recipe: Recipe, seed: int | None = None) -> nn.Module:
    """Make the recipe's network with weights drawn from its seed; torch's own generator is left as it was."""
    part = recipe.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed if seed is None else seed)
        if part.name in zoo.NETWORKS:
            return zoo.build(part.name, **part.options)
        made = import_factory(part.name)(**part.options)
    if not isinstance(made, nn.Module):
        raise RecipeError(part.name, [f"expected it to return a torch.nn.Module, but found {type(made).__name__}"])
    return made


def make_loss(loss: Loss) -> Any:
    """Make the loss that a recipe names."""
    options = {name: make_loss(value) if isinstance(value, Loss) else value for name, value in loss.options.items()}
    return import_factory(LOSSES.get(loss.name, loss.name))(**options)


def make_methods(recipe: Recipe) -> list[Adapter]:
    """Make the methods that a recipe names."""
    return [METHODS[method.name](**method.options) for method in recipe.adapt.method]


# ------------------------------------------------------------------------------------------------- from network to sets


def adapt_network(job: Job, network: nn.Module) -> RobustModel:
    """Adapt a network as the recipe says; nothing is trained yet."""
    part = job.recipe.adapt
    return adapt(
        network,
        job.modalities,
        call=_make_call(job.recipe),
        method=make_methods(job.recipe),
        sharing=part.sharing,
        combinations=part.combinations,
        fill=Mean(job.batches(job.recipe.evaluate.batch_size)) if part.fill == "mean" else part.fill,
        untrained=part.untrained,
        include=part.include,
        exclude=part.exclude,
        seed=job.recipe.seed,
    )


def _make_call(recipe: Recipe) -> CallSpec:
    call = recipe.adapt.call
    return import_factory(call) if isinstance(call, str) and ":" in call else call


def pretrain(job: Job, *, resume: bool = False) -> nn.Module:
    """Give the network with its weights: from the checkpoint, from an earlier run, or by training it on all modalities."""
    if job.recipe.network.checkpoint or (resume and job.network_file.exists()):
        return pretrained(job)
    part = job.recipe.pretrain
    assert part is not None, "the schema asks for pretrain where there is no checkpoint"
    robust = adapt_network(job, fresh_network(job.recipe))
    note(f"training {job.recipe.network.name} on all modalities, {part.epochs} epochs")
    network = _dedicated(job, robust, robust.modalities.complete)
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
        raise MissingFile(f"{job.network_file}: no such file; first run: subsense train {job.name}")
    return network


def _origin(recipe: Recipe) -> str:
    """Say as JSON what a network's weights depend on."""
    parts = recipe.model_dump(include={"seed", "network", "data", "pretrain"}, exclude={"data": {"root"}})
    return json.dumps(parts, sort_keys=True)


def train_sets(job: Job, robust: RobustModel, *, resume: bool = False) -> TrainingReport:
    """Train the adapter sets as the recipe says, and save them."""
    part = job.recipe.train
    job.finished.unlink(missing_ok=True)
    note(f"training the adapter sets of {len(robust.combinations)} combinations, {part.strategy}, {part.epochs} epochs")
    report = train(
        robust,
        job.batches(part.batch_size),
        loss=make_loss(part.loss),
        strategy=part.strategy,
        seed=job.recipe.seed,
        folder=job.state,
        resume=resume,
        **part.options,
    )
    save_adapters(robust, job.adapters)
    job.finished.write_text(_sets_origin(job.recipe), "utf-8")
    return report


def clear_state(job: Job) -> None:
    """Make room for a new training; raise `TrainingError` where a stopped one would be lost."""
    if not job.state.exists():
        return
    if not job.finished.exists():
        raise TrainingError(
            f"{job.state} holds a training that was stopped: go on with --resume, write elsewhere with --output, or delete it"
        )
    rmtree(job.state)


def load_sets(job: Job, network: nn.Module) -> RobustModel:
    """Load the adapter sets that `train_sets` saved; raise `CheckpointError` where there are none of this recipe."""
    if not job.finished.exists():
        raise MissingFile(f"{job.finished}: no such file; first run: subsense train {job.name}")
    if job.finished.read_text("utf-8") != _sets_origin(job.recipe):
        raise CheckpointError(f"{job.adapters}: trained by a recipe with another seed, adapt or train; run `subsense train` "
                              "again, or choose another --output")  # fmt: skip
    call = _make_call(job.recipe)
    return load_adapters(job.adapters, network, call=call if callable(call) else None)


def _sets_origin(recipe: Recipe) -> str:
    """Say as JSON what adapter sets depend on, besides the network."""
    return recipe.model_dump_json(include={"seed", "adapt", "train"}, indent=2)


# ----------------------------------------------------------------------------------------------------------- measuring


def measure(
    job: Job, robust: RobustModel, columns: Collection[Column] = ("pretrained", "adapted"), baselines: bool = True
) -> Results:
    """Measure what the recipe asks for; its baselines are trained first."""
    part = job.recipe.evaluate
    return evaluate(
        robust,
        job.test_batches(),
        metric=metrics.build(part.metric or job.data.metric, job.data.num_classes),
        combinations=part.combinations,
        columns=columns,
        dedicated=train_dedicated(job, robust) if baselines else None,
        finetuned=finetune(job, robust) if baselines else None,
        seed=job.recipe.seed,
        title=job.data.name,
    )


def train_dedicated(job: Job, robust: RobustModel) -> dict[str, nn.Module]:
    """Train a network for each combination that the recipe wants one for; the complete one's is the network itself."""
    asked = job.recipe.evaluate.dedicated
    if asked is None:
        return {}
    chosen = robust.modalities.incomplete() if asked == "all" else [robust.modalities.combination(one) for one in asked]
    networks = {}
    for number, combination in enumerate(chosen, 1):
        note(f"training a network for {combination} alone ({number} of {len(chosen)})")
        networks[str(combination)] = _dedicated(job, robust, combination)
    return networks


def _dedicated(job: Job, robust: RobustModel, combination: Any) -> nn.Module:
    part = job.recipe.pretrain
    assert part is not None, "the schema asks for pretrain where dedicated networks are wanted"
    return train_alone(
        robust,
        lambda: fresh_network(job.recipe),
        job.batches(part.batch_size),
        combination,
        loss=make_loss(part.loss),
        seed=job.recipe.seed,
        **part.options,
    )


def finetune(job: Job, robust: RobustModel) -> nn.Module | None:
    """Fine-tune a copy of the whole network with modality dropout, where the recipe wants it."""
    part = job.recipe.evaluate.finetuned
    if part is None:
        return None
    note(f"fine-tuning the whole network with modality dropout, {part.epochs} epochs")
    return finetune_network(
        robust, job.batches(part.batch_size), loss=make_loss(part.loss), seed=job.recipe.seed, **part.options
    )


# ------------------------------------------------------------------------------------------------------------- showing


def plan_network(recipe: Recipe) -> Plan:
    """Find the sites of the recipe's network; raise `PlanError` before anything is trained."""
    part = recipe.adapt
    return plan(fresh_network(recipe), make_methods(recipe), include=part.include, exclude=part.exclude)


def describe(job: Job, robust: RobustModel) -> str:
    """Say what was adapted and how, in two lines."""
    planned = robust.plan
    methods = ", ".join(adapter.name for adapter in planned.adapters)
    num_rows = len(robust.router.row_names)
    return "\n".join([
        f"network   {job.recipe.network.name}, {planned.network_parameters:,} parameters, frozen",
        f"adapters  {methods} at {len(planned.sites)} sites, {robust.sharing} sharing: {num_rows} rows of "
        f"{planned.parameters_per_row:,} parameters serve {len(robust.combinations)} combinations",
    ])  # fmt: skip


def write_reports(job: Job, robust: RobustModel, results: Results) -> list[Path]:
    """Write results as JSON, Markdown, picture and page into the job's folder."""
    examples = reporting.collect_examples(robust, _show_samples(job.data.test), class_names=job.data.class_names)
    files = [reporting.report(results, job.results_file.with_suffix(suffix), examples) for suffix in FORMS]
    return [results.save(job.results_file), *files]


def _show_samples(samples: Any) -> list[Any]:
    """Choose some samples, spread evenly."""
    count = min(NUM_EXAMPLES, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def check_kept(job: Job, robust: RobustModel) -> dict[str, str]:
    """Load everything back from the files and fold every set; say how the outputs on a test batch compare."""
    inputs = next(iter(job.test_batches()))[0]
    loaded = load_sets(job, pretrained(job))
    robust.eval(), loaded.eval()
    with torch.no_grad():
        same = all(torch.equal(*(_output(one, inputs, what) for one in (robust, loaded))) for what in robust.combinations)
        distance = max(_fold_distance(robust, inputs, what) for what in robust.combinations)
    count = len(robust.combinations)
    return {
        f"loaded, {count} combinations": "outputs are equal" if same else "OUTPUTS DIFFER",
        f"folded, {count} combinations": f"outputs differ by {distance:.1e} of the greatest at most",
    }


def _output(robust: RobustModel, inputs: Mapping[str, Any], combination: Combination) -> Any:
    return robust({name: inputs[name] for name in combination})


def _fold_distance(robust: RobustModel, inputs: Mapping[str, Any], combination: Combination) -> float:
    args, kwargs = prepare(robust, {name: inputs[name] for name in combination})
    expected = _output(robust, inputs, combination)
    found = fold(robust, combination).eval()(*args, **kwargs)
    return float((found - expected).abs().max() / expected.abs().max())


def write_folded(job: Job, robust: RobustModel, combination: str, file: Path) -> nn.Module:
    """Fold a combination and write it in the form that the file's ending names."""
    match file.suffix:
        case ".onnx":
            return fold(robust, combination, onnx=file, example=_one_row(job))
        case ".pt2":
            return fold(robust, combination, export=file, example=_one_row(job))
    folded = fold(robust, combination)
    write_weights(folded, file, f"{job.name}: {robust.modalities.combination(combination)}")
    return folded


def _one_row(job: Job) -> Any:
    return default_collate([job.data.test[0]])[0]
