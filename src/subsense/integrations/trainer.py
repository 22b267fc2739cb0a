"""transformers' `Trainer` trains adapter sets: a module that it takes for a model. Needs ``subsense[transformers]``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers import TrainerCallback

from subsense.evaluation.evaluate import evaluate
from subsense.evaluation.results import Column
from subsense.integrations.objective import BatchLoss, Unused, batch_loss, check_belongs
from subsense.modalities import CombinationLike
from subsense.modalities.collating import Collate
from subsense.model.robust import RobustModel
from subsense.model.scores import select_scores
from subsense.training.losses import Distill, Loss, Select
from subsense.training.seeding import derive_seed

FINGERPRINT, DRAWS = "subsense.fingerprint", "subsense.draws"


class Loaded(NamedTuple):
    """Say what a load left out, by the names that torch's own result has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class TrainerModel(nn.Module):
    """Be what `Trainer` calls a model; made by `for_trainer`, whose class knows the names of the arguments."""

    def __init__(self, batch: BatchLoss, labels: str, select: Select, seed: int) -> None:
        super().__init__()
        self.robust, self.batch, self.labels, self.select, self.seed = batch.robust, batch, labels, select, seed
        self.draws = 0

    def run(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give loss and logits for named arguments; a modality of which all arguments are None is missing."""
        target = arguments[self.labels]
        inputs = {name: value for name in self.robust.modalities if (value := self._input(name, arguments)) is not None}
        if arguments["present"] is not None:
            inputs["present"] = arguments["present"]
        if self.training:
            self.draws += 1
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            loss, output = self.batch.drawn((inputs, target), derive_seed(self.seed, "draw", self.draws, 0, rank))
            return {"loss": loss, "logits": self.select(output)}
        output = self.robust(inputs)
        found = {"logits": self.select(output)}
        goal = self.batch.objective.goal(inputs, target) if target is not None else None
        return found if goal is None else {"loss": self.batch.objective.loss(output, goal), **found}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of rows, each of which may lack arguments or have None for them: `Trainer`'s `data_collator`.

        The one that `Trainer` takes by itself gives every row what its first one has.

        Raises:
            InputError: a row without any modality, with a part of one, or with a target where the first has none.
        """
        samples = []
        for row in rows:
            given = {name: value for name in self.robust.modalities if (value := self._whole(name, row)) is not None}
            said = {} if row.get("present") is None else {"present": torch.as_tensor(row["present"])}
            samples.append(({**given, **said}, *([row[self.labels]] if row.get(self.labels) is not None else [])))
        batch = Collate(self.robust.modalities)(samples)
        inputs, target = batch if isinstance(batch, tuple) else (batch, None)
        columns = {"present": inputs.pop("present")} | ({} if target is None else {self.labels: target})
        for name, value in inputs.items():
            parts = {name: value} if self.robust.modalities[name].is_single else value
            columns |= {self.robust.call.argument(name, part): tensor for part, tensor in parts.items()}
        return columns

    def _whole(self, name: str, row: Mapping[str, Any]) -> Any:
        """Give what a row has of a modality, without those of its arguments that are None."""
        modality = self.robust.modalities[name]
        found = {part: row.get(self.robust.call.argument(name, part)) for part in modality.parts}
        parts = {part: value for part, value in found.items() if value is not None}
        return parts.get(name) if modality.is_single else parts or None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Give the adapters, which of them are trained, and what says whose they are: what `Trainer` keeps."""
        fingerprint = torch.tensor(list(self.robust.network_fingerprint().encode()), dtype=torch.uint8)
        return self.robust.adapter_state_dict() | {FINGERPRINT: fingerprint, DRAWS: torch.tensor(self.draws)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take up what `state_dict` gave.

        Raises:
            OtherNetwork: the sets belong to other weights.
            CheckpointError: adapters that are missing, do not belong, or have another shape. Nothing was changed.
        """
        check_belongs(self.robust, bytes(state_dict[FINGERPRINT].tolist()).decode())
        own = {name: x for name, x in state_dict.items() if name not in (FINGERPRINT, DRAWS)}
        self.robust.load_adapter_state_dict(own)
        self.draws = int(state_dict[DRAWS])
        return Loaded([], [])

    def _input(self, name: str, arguments: Mapping[str, Any]) -> Any:
        modality = self.robust.modalities[name]
        parts = {part: arguments[self.robust.call.argument(name, part)] for part in modality.parts}
        if all(value is None for value in parts.values()):
            return None
        return parts[name] if modality.is_single else parts


def for_trainer(
    robust: RobustModel,
    loss: Loss | Distill | str,
    *,
    labels: str = "labels",
    combinations: Iterable[CombinationLike] | None = None,
    weights: Mapping[CombinationLike, float] | None = None,
    select: Select | None = None,
    seed: int = 0,
) -> TrainerModel:
    """Make what transformers' `Trainer` takes for a model: arguments and labels in, loss and logits out.

    In training each row draws what it keeps; in evaluation what is passed is what is present, so ``eval_loss`` is the
    complete network's; `EachCombination` measures the others. Where rows lack arguments, `Trainer` is given
    ``data_collator=model.collate``. Only adapters have gradients, so `Trainer`'s optimiser
    holds nothing else, and its checkpoints hold the adapters alone.

    The module's `forward` names its arguments, as `Trainer` needs: it leaves out columns that aren't named there, and
    takes a ``**kwargs`` for a promise to divide the loss by the number of accumulated batches itself.

    Args:
        robust: what `subsense.adapt` made.
        loss: as for `subsense.train`: a function, ``"distill"`` or a `Distill`.
        labels: the argument that holds the target.
        combinations: those that rows draw from; by default all that have adapters.
        weights: combination -> how often it is drawn relative to the others.
        select: picks the logits of the network's output; by default the tensor that it is, or its ``logits``.
        seed: of the draws.

    Raises:
        TrainingError, ModalityError: an argument that can't be.
    """
    modalities, call = robust.modalities, robust.call
    columns = [call.argument(name, part) for name, modality in modalities.items() for part in modality.parts]
    names = ["self", *columns, "present", labels]

    def forward(self: TrainerModel, *args: Any, **kwargs: Any) -> dict[str, Any]:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        return self.run(bound.arguments)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, default=None) for name in names[1:]]
    signature = inspect.Signature([inspect.Parameter("self", kind), *parameters])
    cast(Any, forward).__signature__ = signature  # what `inspect.signature` gives, for `Trainer`
    made = type("TrainerModel", (TrainerModel,), {"forward": forward})
    model: TrainerModel = made(
        batch_loss(robust, loss, combinations, weights, select), labels, select or select_scores, seed
    )
    return model


class EachCombination(TrainerCallback):
    """Add each combination's measure to what `Trainer` evaluates, and leave alone what isn't trained.

    ``eval_METRIC/COMBINATION`` and ``eval_METRIC`` (mean over the incomplete ones) can be named as
    ``metric_for_best_model``.

    Args:
        model: what `for_trainer` made.
        loader: batches ``(inputs, target)``, as for `subsense.evaluate`.
        metric: as for `subsense.evaluate`.
    """

    def __init__(self, model: TrainerModel, loader: Iterable[Any], metric: Any) -> None:
        self.model, self.loader, self.metric = model, loader, metric
        self._unused: Unused | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take down what the run must not move."""
        self._unused = Unused(self.model.robust, self.model.batch.combinations)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the sets that are not trained as they were."""
        if self._unused is not None:
            self._unused.restore()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every combination."""
        metrics: dict[str, float] = kwargs["metrics"]
        robust = self.model.robust
        asked = [str(one) for one in robust.trained if one in self.model.batch.combinations]
        if not asked:
            return
        columns: tuple[Column, ...] = ("adapted",)
        results = evaluate(
            robust,
            self.loader,
            metric=self.metric,
            combinations=asked,
            columns=columns,
            select=self.model.select,
            progress=False,
        )
        name = f"eval_{results.metric}"
        values = {row.combination: row.adapted for row in results.rows if row.adapted is not None}
        found = {f"{name}/{combination}": value for combination, value in values.items()}
        found[name] = sum(values.values()) / len(values)
        metrics.update(found)
        state.log_history.append({"step": state.global_step, "epoch": state.epoch, **found})
