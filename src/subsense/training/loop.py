"""The one training loop: adapters and whole networks, one process or several, stopped and resumed to the same bits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from math import ceil
from typing import Any

import torch
from torch import Tensor

from subsense.errors import TrainingError
from subsense.support.modules import modes_kept
from subsense.training.distributed import Processes
from subsense.training.report import Epoch, TrainingReport, best_epoch
from subsense.training.run import Position, Run, facts_of, length_of
from subsense.training.seeding import random_state_kept, seed_everything, seed_loader
from subsense.training.state import check_vacant, load_state, save_state
from subsense.training.step import Stepper


def fit(run: Run) -> TrainingReport:
    """Train to the end, or go on with the state in the run's folder.

    Raises:
        TrainingError: the folder holds another run's state, or one although `resume` is False; an epoch without a row
            that any combination fits; a loss that is no scalar.
        NonFiniteLoss: NaN or infinity; the parameters are those of before the step.
    """
    return _Loop(run).run()


class _Loop:
    """Go through parts, epochs and batches, from wherever the position says."""

    def __init__(self, run: Run) -> None:
        self._run, self._options, self._trainee = run, run.options, run.trainee
        self._processes = Processes(run.options)
        with random_state_kept():
            self._loader = self._processes.share(run.loader)
        length = length_of(self._loader)
        self._steps = None if length is None else ceil(length / run.options.accumulate) * run.options.epochs
        self._position = Position()
        self._best: dict[str, Tensor] = {}
        self._optimizer_state: dict[str, Tensor] = {}
        self._stepper: Stepper | None = None
        self._idle: set[str] | None = None
        self._cut: set[str] = set()
        self._facts = facts_of(run, length, self._processes.count)

    def run(self) -> TrainingReport:
        """Train what is left to train."""
        kept = self._read()
        self._started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(random_state_kept(*self._loaders()))
            stack.enter_context(modes_kept(self._trainee.module))
            stack.callback(self._forget)
            self._trainee.module.to(self._processes.device)
            self._run.objective.move(self._processes.device)
            self._restore(*kept) if kept else self._processes.agree(self._tensors().values())
            stack.enter_context(self._processes.tracking())
            total, done = self._steps and self._steps * len(self._run.parts), self._position.total_steps
            self._bar = stack.enter_context(self._processes.bar(total, done, self._options.progress))
            while self._position.part < len(self._run.parts):
                self._train_part()
        return self._report()

    def _train_part(self) -> None:
        part = self._position.part
        names = [str(combination) for combination in self._run.parts[part].combinations]
        self._bar.set_description(names[0] if len(names) == 1 else f"{len(names)} combinations", refresh=False)
        self._stepper = Stepper(self._run, part, self._processes, self._optimizer_state)
        while self._position.epoch < self._options.epochs and not self._is_patience_over():
            self._train_epoch(self._stepper)
        if self._best:
            self._put(self._best)
        idle = self._stepper.idle()
        self._idle = idle if self._idle is None else self._idle & idle
        self._cut |= self._stepper.cut or set()
        self._best, self._optimizer_state, self._stepper = {}, {}, None
        self._position.next_part()
        self._save()

    def _train_epoch(self, stepper: Stepper) -> None:
        position, waiting = self._position, 0
        self._trainee.train()
        for batch in _batches(self._loader, self._options.seed, position.epoch, position.batch):
            stepper.add(batch, position)
            position.batch += 1
            waiting = (waiting + 1) % self._options.accumulate
            if not waiting:
                self._step(stepper)
        if waiting:
            self._step(stepper)
        if not position.rows:
            self._refuse_epoch(stepper)
        self._end_epoch()

    def _step(self, stepper: Stepper) -> None:
        position = self._position
        rate = self._options.learning_rate(position.step, self._steps)
        loss = stepper.step(position, rate)
        position.step += 1
        position.total_steps += 1
        if loss is not None:
            self._bar.set_postfix({"loss": f"{loss:.4f}"} | self._last_metric(), refresh=False)
            self._processes.log({"loss": loss, "lr": rate}, position.total_steps)
        self._bar.update()
        if self._options.save_every and position.total_steps % self._options.save_every == 0:
            self._save()

    def _end_epoch(self) -> None:
        """Measure, remember the best, keep the state."""
        position, validation = self._position, self._run.validation
        self._processes.agree(self._trainee.buffers().values())
        rate = self._options.learning_rate(position.step - 1, self._steps)
        record = Epoch(position.part, position.epoch + 1, position.loss / position.rows, rate, self._validate(),
                       position.rows, position.dropped)  # fmt: skip
        position.history.append(asdict(record))
        if validation and best_epoch(self._epochs(), validation.higher_is_better) == record:
            self._best = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        if validation and record.metric is not None:
            self._processes.log({validation.name: record.metric}, position.total_steps)
        position.next_epoch()
        self._save()

    def _validate(self) -> float | None:
        validation, combinations = self._run.validation, self._run.parts[self._position.part].combinations
        if validation is None:
            return None
        return validation.evaluate(self._trainee, combinations, self._processes, self._options.seed)

    # ------------------------------------------------------------------------------------------------ what is known

    def _loaders(self) -> list[Any]:
        return [self._run.loader, *([self._run.validation.loader] if self._run.validation else [])]

    def _epochs(self) -> list[Epoch]:
        """Give the epochs of this part."""
        return [Epoch(**record) for record in self._position.history if record["part"] == self._position.part]

    def _is_patience_over(self) -> bool:
        validation, patience = self._run.validation, self._options.patience
        if not (validation and patience and (epochs := self._epochs())):
            return False
        return len(epochs) - best_epoch(epochs, validation.higher_is_better).epoch >= patience

    def _last_metric(self) -> dict[str, str]:
        validation, history = self._run.validation, self._position.history
        return {validation.name: f"{history[-1]['metric']:.4f}"} if validation and history else {}

    def _refuse_epoch(self, stepper: Stepper) -> None:
        wanted = " or ".join(map(str, stepper.part.combinations))
        why = "is complete, which 'distill' needs" if self._run.objective.needs_complete else f"has {wanted}"
        raise TrainingError(f"epoch {self._position.epoch + 1}: no row of the loader {why}; "
                            f"all {self._position.dropped} were left out")  # fmt: skip

    def _report(self) -> TrainingReport:
        validation = self._run.validation
        return TrainingReport(
            combinations=tuple(tuple(map(str, part.combinations)) for part in self._run.parts),
            steps=self._position.total_steps,
            seconds=self._seconds(),
            history=tuple(Epoch(**record) for record in self._position.history),
            rows=dict(self._position.trained),
            metric=validation.name if validation else None,
            higher_is_better=bool(validation and validation.higher_is_better),
            idle=tuple(name for name in self._trainee.parameters if name in (self._idle or ())),
            cut=tuple(name for name in self._trainee.parameters if name in self._cut & (self._idle or set())),
            steep=self._position.steep_sites(),
            clip=self._options.clip,
        )

    # ---------------------------------------------------------------------------------------------- keeping the state

    def _tensors(self) -> dict[str, Tensor]:
        """Give everything that training changes."""
        return {**self._trainee.parameters, **self._trainee.buffers()}

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(tensors[name])

    def _forget(self) -> None:
        self._trainee.module.zero_grad(set_to_none=True)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if self._options.folder is None:
            return None
        if self._options.resume:
            return load_state(self._options.folder, self._facts)
        check_vacant(self._options.folder)
        return None

    def _save(self) -> None:
        if self._options.folder is None:
            return
        if self._processes.index == 0:
            optimizer = {} if self._stepper is None else self._stepper.state()
            groups = {"now": self._tensors(), "best": self._best, "optimizer": optimizer}
            tensors = {f"{group}.{name}": tensor for group, part in groups.items() for name, tensor in part.items()}
            position = asdict(self._position) | {"seconds": self._seconds()}
            save_state(self._options.folder, self._facts, position, tensors)
        self._processes.wait()

    def _restore(self, position: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        groups: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            group, _, name = key.partition(".")
            groups[group][name] = tensor
        self._position = Position(**position)
        self._best, self._optimizer_state = groups["best"], groups["optimizer"]
        self._put(groups["now"])

    def _seconds(self) -> float:
        return self._position.seconds + time.monotonic() - self._started


def _batches(loader: Any, seed: int, epoch: int, first: int) -> Iterator[Any]:
    """Yield an epoch's batches from `first` on; those before are fetched and passed over.

    All processes fetch under the same seed, since their samplers have to agree.
    """
    seed_loader(loader, epoch, seed, "loader")
    seed_everything(seed, "epoch", epoch)
    iterator, index = iter(loader), 0
    while True:
        seed_everything(seed, "fetch", epoch, index)
        try:
            batch = next(iterator)
        except StopIteration:
            return
        if index >= first:
            yield batch
        index += 1
