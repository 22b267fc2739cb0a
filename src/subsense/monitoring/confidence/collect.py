"""What a network says about rows with known answers, combination by combination: scores and targets, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Combination
from subsense.modalities.loaders import available, moved, split_labelled, take
from subsense.model.confidence import Task
from subsense.model.robust import RobustModel
from subsense.support.modules import device_of, evaluating


@dataclass(frozen=True)
class Sample:
    """Hold what was said of one combination.

    Attributes:
        scores: (row, class, position), or values (row, position).
        target: class indices int64, or values, (row, position).
        counted: bool (row, position).
    """

    scores: Tensor
    target: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Reader:
    """Take scores and targets apart.

    Attributes:
        select: takes the scores out of an output.
        ignore_index: the label of positions that don't count.
        pixels: of more positions in a row, so many are drawn.
        seed: of what is drawn: the same positions for every combination.
    """

    select: Callable[[Any], Tensor]
    ignore_index: int | None
    pixels: int
    seed: int

    def read(self, output: Any, target: Tensor, batch: int) -> tuple[Task, Sample]:
        """Read one batch; raise `InputError` where scores and target don't fit."""
        scores = self.select(output).detach()
        task: Task = "values" if target.is_floating_point() else "classes"
        shape = scores.shape[:1] + scores.shape[2:]
        fits = scores.numel() == target.numel() if task == "values" else scores.dim() > 1 and target.shape == shape
        if not fits or len(scores) != len(target):
            raise InputError(
                "confidence: expected scores (batch, class, ...) with class indices (batch, ...), or as many values as "
                f"the target has, but found scores {tuple(scores.shape)} and a target {tuple(target.shape)} of "
                f"{target.dtype}"
            )
        wanted = target.reshape(len(target), -1).to(scores.device)
        places = self._places(wanted, batch)
        wanted = wanted.gather(1, places)
        if task == "values":
            found = scores.reshape(len(scores), -1).gather(1, places)
            return task, Sample(found.float().cpu(), wanted.float().cpu(), wanted.isfinite().cpu())
        flat = scores.reshape(len(scores), scores.shape[1], -1)
        chosen = flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1))
        counted = torch.ones_like(wanted, dtype=torch.bool)
        if self.ignore_index is not None:
            counted = wanted != self.ignore_index
        wrong = counted & ((wanted < 0) | (wanted >= scores.shape[1]))
        if wrong.any():
            raise InputError(
                f"confidence: expected class indices 0 to {scores.shape[1] - 1}, but found {int(wanted[wrong][0])}; "
                "where one of them marks what doesn't count, pass it as `ignore_index`"
            )
        return task, Sample(chosen.float().cpu(), torch.where(counted, wanted, 0).long().cpu(), counted.cpu())

    def _places(self, target: Tensor, batch: int) -> Tensor:
        count = target.shape[1]
        if count <= self.pixels:
            return torch.arange(count, device=target.device).expand(len(target), -1)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + batch)
        drawn = torch.stack([torch.randperm(count, generator=generator)[: self.pixels] for _ in target])
        return drawn.to(target.device)


def collect(
    robust: RobustModel, loader: Iterable[Any], asked: Sequence[Combination], reader: Reader
) -> tuple[Task, dict[Combination, Sample]]:
    """Run every combination on the rows that have all of it; what else they have is withheld.

    Raises:
        InputError: no batch, no row for a combination, or what doesn't fit.
        UntrainedCombination: as for `RobustModel.forward`.
    """
    parts: dict[Combination, list[Sample]] = {one: [] for one in asked}
    tasks: set[Task] = set()
    device = device_of(robust.network)
    with evaluating(robust), torch.no_grad():
        for number, batch in enumerate(loader):
            inputs, target = split_labelled(batch)
            for combination, some, truth in _shares(robust, inputs, target, asked):
                values = moved(some, device)
                present = robust.modalities.present(combination).expand(len(truth), -1)
                task, sample = reader.read(robust(values, present), truth, number)
                tasks.add(task)
                parts[combination].append(sample)
    if len(tasks) != 1:
        raise InputError(
            "loader: expected at least one batch, but found none"
            if not tasks
            else "loader: expected targets of one kind, but found both class indices and values"
        )
    lacking = [str(one) for one, samples in parts.items() if not samples]
    if lacking:
        raise InputError(f"loader: no row has all of {', '.join(lacking)}; leave them out: combinations=[...]")
    return tasks.pop(), {one: _joined(samples) for one, samples in parts.items()}


def _shares(
    robust: RobustModel, inputs: Mapping[str, Any], target: Tensor, asked: Sequence[Combination]
) -> Iterable[tuple[Combination, Mapping[str, Any], Tensor]]:
    has = available(robust.modalities, inputs)
    values = {name: value for name, value in inputs.items() if name != "present" and value is not None}
    for combination in asked:
        rows = has[:, robust.modalities.present(combination)].all(dim=1).nonzero().flatten()
        if len(rows):
            yield combination, take(values, rows, len(has), "inputs"), take(target, rows, len(has))


def _joined(samples: Sequence[Sample]) -> Sample:
    """Put batches together; rows of fewer positions end in some that don't count."""
    most = max(sample.target.shape[1] for sample in samples)
    padded = [
        Sample(*(torch.nn.functional.pad(part, (0, most - part.shape[-1])) for part in vars(sample).values()))
        for sample in samples
    ]
    return Sample(*(torch.cat([getattr(one, name) for one in padded]) for name in ("scores", "target", "counted")))
