"""Turn batches into gradients, and gradients into steps: draw, forward, backward, and one move of the parameters."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from subsense.errors import InputError, NonFiniteLoss, TrainingError
from subsense.modalities import Combination
from subsense.modalities.loaders import available, graded, split, take
from subsense.routing.placement import NotFinite
from subsense.support.torch_private import is_sharded
from subsense.training.cuts import find_cuts
from subsense.training.distributed import Processes
from subsense.training.gradients import clip_steep, find_steep, named, nan_text, warn_text, where_not_finite
from subsense.training.run import Position, Run
from subsense.training.sampling import Draw
from subsense.training.seeding import derive_seed, seed_everything
from subsense.training.together import running_together


@dataclass(frozen=True)
class Rows:
    """Hold the rows that train.

    Attributes:
        healthy: the loader's inputs, which a teacher is given.
        inputs: what the trainee is given: the same, some of it degraded.
        target: as the loader gives it.
        draw: what was drawn for them.
    """

    healthy: Mapping[str, Any]
    inputs: Mapping[str, Any]
    target: Any
    draw: Draw

    def take(self, which: Tensor) -> Rows:
        """Give some of the rows."""
        count = len(self.draw.which)
        drawn = Draw(self.draw.rows[which], self.draw.which[which], self.draw.present[which])
        healthy, inputs = (take(one, which, count, "inputs") for one in (self.healthy, self.inputs))
        return Rows(healthy, inputs, take(self.target, which, count), drawn)


WAYS = "Lower lr, set clip, or look for NaN and infinity in the data of these rows"
TOO_LARGE = "the loss is finite, but the norm of its gradient is"
FUSED_DEVICES = ("cpu", "cuda")


def make_adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Make the optimiser of the loop: one pass over parameters and moments where torch has a kernel for it.

    With a bank row for each of 255 combinations a step is bound by memory, and an operation after the other, as torch
    does by default, reads it all a dozen times.
    """
    moved = list(parameters)
    fused = all(one.device.type in FUSED_DEVICES and one.is_floating_point() for one in moved)
    return torch.optim.AdamW(moved, lr=lr, weight_decay=weight_decay, fused=fused or None)


class Stepper:
    """Train one part of a run, with an optimiser of its own.

    Args:
        run: what is trained, on what.
        part: which of its parts.
        processes: those of the run.
        state: the optimiser's, as `state` gave it; empty: a fresh one.
    """

    def __init__(self, run: Run, part: int, processes: Processes, state: Mapping[str, Tensor]) -> None:
        self.run, self.part, self.processes = run, run.parts[part], processes
        self._parameters: Mapping[str, nn.Parameter] = run.trainee.parameters
        self._optimizer = make_adamw(self._parameters.values(), run.options.lr, run.options.weight_decay)
        for key, value in state.items():
            kind, _, name = key.partition(".")
            parameter = self._parameters[name]
            on_device = kind != "step" or self._optimizer.defaults["fused"]
            self._optimizer.state[parameter][kind] = value.to(parameter.device) if on_device else value
        masks = run.trainee.fixed(self.part.combinations)
        fixed = [(self._parameters[name], mask) for name, mask in masks.items()]
        self._fixed = [(parameter, mask, parameter.detach()[mask]) for parameter, mask in fixed]
        self._banks = run.trainee.banks()
        self._bank_rows = {str(one): run.trainee.rows_of(one) for one in self.part.combinations}
        self._is_split = processes.count > 1 and is_sharded(run.trainee.module)
        self._rows, self._loss, self._drawn = 0, 0.0, Counter[str]()
        self.cut: set[str] | None = None if processes.count == 1 else set()

    def state(self) -> dict[str, Tensor]:
        """Give the optimiser's tensors, ``kind.parameter`` -> tensor."""
        return {
            f"{kind}.{name}": value
            for name, parameter in self._parameters.items()
            for kind, value in self._optimizer.state.get(parameter, {}).items()
        }

    def idle(self) -> set[str]:
        """Give the parameters that never had a gradient."""
        return {name for name, parameter in self._parameters.items() if parameter not in self._optimizer.state}

    def add(self, batch: Any, position: Position) -> None:
        """Add a batch's gradient and count its rows in the position.

        What is added is the sum over rows, so that batches and processes weigh by their rows.

        Raises:
            InputError: no batch, or no target where the loss needs one.
            NonFiniteLoss: NaN or infinity, with step and combinations.
        """
        rows, dropped = self._draw(batch, position)
        count, loss = len(rows.draw.rows), None
        if not count and self._is_split:
            raise TrainingError(
                f"{position}: no row of this process's batch trains, and a network that is split between processes "
                "needs all of them at each step; use larger batches, or a loader without rows that nothing fits"
            )
        count, loss, seed = len(rows.draw.rows), None, self._seed("forward", position)
        if count:
            loss = self._loss_of(rows, seed)
        self._count(count, dropped, loss, rows, position)
        if loss is not None:
            (loss * count).backward()
            if self.cut is None:
                self.cut = find_cuts(self._parameters, lambda: self._loss_of(rows, seed))

    def step(self, position: Position, rate: float) -> float | None:
        """Make one step with the mean gradient over the rows added since the last; give their mean loss.

        None, and no step, where no rows were added.
        """
        rows, loss = self._rows, self._loss
        if rows:
            self._move(rows, rate, position)
        self.forget()
        return loss / rows if rows else None

    def forget(self) -> None:
        """Drop the gradient that was added."""
        self._optimizer.zero_grad(set_to_none=True)
        self._rows, self._loss, self._drawn = 0, 0.0, Counter[str]()

    def _draw(self, batch: Any, position: Position) -> tuple[Rows, int]:
        """Draw a combination for each row; give the rows that train, and how many don't."""
        inputs, target = split(self.processes.place(batch))
        objective = self.run.objective
        if objective.needs_target and target is None:
            raise InputError("a batch of the loader: expected (inputs, target), but found inputs alone; "
                             "without targets, use loss='distill'")  # fmt: skip
        has = available(self.run.trainee.modalities, inputs)
        usable = has & has.all(1, keepdim=True) if objective.needs_complete else has
        # As one process would draw for the whole batch, so that the number of processes doesn't change the sets.
        everyone, first = self.processes.join(usable)
        draw = self.part.drawer.draw(everyone, self._seed("draw", position, process=0)).of(first, len(has))
        dropped = len(has) - len(draw.rows)
        if dropped:
            inputs = take(inputs, draw.rows, len(has), "inputs")
            target = take(target, draw.rows, len(has)) if objective.needs_target else None
        worse, degrader = inputs, self.run.degrader
        if degrader and len(draw.rows):
            worse = degrader(inputs, draw.present, seed=self._seed("degrade", position))
        return Rows(inputs, worse, target, replace(draw, present=graded(draw.present, inputs))), dropped

    def _loss_of(self, rows: Rows, seed: int | None) -> Tensor:
        try:
            return self._forward(rows, seed)
        except NotFinite:  # rows could not be told apart, since they are NaN: which ones, `_culprits` finds out
            return torch.full((), float("nan"))

    def _forward(self, rows: Rows, seed: int | None) -> Tensor:
        goal = self.processes.compute(self.run.objective.goal, rows.healthy, rows.target)
        if seed is not None:
            seed_everything(seed)
        with running_together(self.run):
            output = self.processes.compute(self.run.trainee.module, rows.inputs, rows.draw.present)
        loss = self.run.objective.loss(output, goal)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainingError(f"loss: expected a scalar tensor, but {self.run.objective.describe()} gave {found}")
        return loss.reshape(())

    def _count(self, rows: int, dropped: int, loss: Tensor | None, which: Rows, position: Position) -> None:
        """Count over all processes; stop all of them where one has a loss that isn't finite."""
        value = 0.0 if loss is None else loss.item()
        is_bad = not isfinite(value)
        drawn = which.draw.which.bincount(minlength=len(self.part.combinations)).tolist()
        total, bad, *counts = self.processes.total(0.0 if is_bad else value * rows, is_bad, rows, dropped, *drawn)
        if bad:
            why = (
                f"the loss is {value}{'. ' + WAYS if self._is_split else self._culprits(which)}"
                if is_bad
                else f"another process has no finite loss. {WAYS}"
            )
            self._stop(position, why)
        rows, dropped, *drawn = map(int, counts)
        position.loss, self._loss = position.loss + total, self._loss + total
        position.rows, self._rows = position.rows + rows, self._rows + rows
        position.dropped += dropped
        for combination, number in zip(map(str, self.part.combinations), drawn, strict=True):
            position.trained[combination] = position.trained.get(combination, 0) + number
            self._drawn[combination] += number

    def _move(self, rows: int, rate: float, position: Position) -> None:
        self.processes.sum_gradients(list(self._parameters.values()))
        moving = [parameter for parameter in self._parameters.values() if parameter.grad is not None]
        gradients = [parameter.grad.div_(rows) for parameter in moving if parameter.grad is not None]
        self._clip_steep(rows, position)
        norm = get_total_norm(gradients)
        if not isfinite(norm):
            sites, combinations = where_not_finite(self._banks, self._bank_rows)
            large = f"{TOO_LARGE} {norm.item()}. {WAYS}"
            self._stop(position, nan_text(sites, combinations, len(self._bank_rows)) if combinations else large)
        if self.run.options.clip is not None:
            clip_grads_with_norm_(moving, self.run.options.clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        with torch.no_grad():
            for parameter, fixed, before in self._fixed:
                parameter[fixed] = before

    def _clip_steep(self, rows: int, position: Position) -> None:
        """Look at the gradients of combinations that are trained on for the first time, and clip what explodes."""
        drawn = {one: number for one, number in self._drawn.items() if number and self._bank_rows[one]}
        new = [one for one, number in drawn.items() if position.trained[one] == number]
        found = find_steep(self._banks, self._bank_rows, drawn, new, self._loss / rows) if new else {}
        clips = self.run.options.clip is None
        if found:
            position.add_steep(found)
        if exploding := {site: one for site, one in found.items() if one.explodes}:
            warnings.warn(warn_text(exploding, clips), stacklevel=2)
        if clips and position.steep:
            clip_steep(self._banks, self._bank_rows, position.steep_sites())

    def _culprits(self, rows: Rows) -> str:
        """Say which combinations' rows have no finite loss, by computing it for each alone, and the likely cause."""
        self.run.trainee.measure()
        with torch.no_grad():
            found = {combination: some for combination, some in self._by_combination(rows)
                     if not self._forward(some, None).isfinite()}  # fmt: skip
            causes = [self.run.trainee.why_not_finite(combination, some.inputs, some.draw.present)
                      for combination, some in found.items()]  # fmt: skip
        drawn = sorted({str(self.part.combinations[which]) for which in rows.draw.which.tolist()})
        several = named(list(map(str, found)) or drawn, len(self.part.combinations))
        names = several if found else f"{several} taken together"
        return f" for rows with {names}. {next((cause for cause in causes if cause), WAYS)}"

    def _by_combination(self, rows: Rows) -> Iterator[tuple[Combination, Rows]]:
        drawn = rows.draw.which
        for which in drawn.unique().tolist():
            yield self.part.combinations[which], rows.take((drawn == which).nonzero().flatten())

    def _stop(self, position: Position, why: str) -> NoReturn:
        raise NonFiniteLoss(f"{position}: {why}. Training stopped and the parameters are those of before this step")

    def _seed(self, purpose: str, position: Position, process: int | None = None) -> int:
        process = self.processes.index if process is None else process
        return derive_seed(self.run.options.seed, purpose, position.epoch, position.batch, process)
