"""What training minimises: the task's own loss, or the distance to the network's own output with everything present.

Distillation: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from subsense.errors import InputError, SubsenseError, TrainingError, closest
from subsense.model.scores import select_scores

Loss = Callable[[Any, Any], Tensor]
Select = Callable[[Any], Tensor]
TORCH_LOSSES = ("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
                "binary_cross_entropy", "binary_cross_entropy_with_logits")  # fmt: skip
SCORES = ("auto", "classes", "values")


class Objective(Protocol):
    """Say what a batch is compared with, and how."""

    @property
    def needs_complete(self) -> bool:
        """Say whether rows that lack a modality in the data itself are of no use."""

    @property
    def needs_target(self) -> bool:
        """Say whether the loader has to yield targets."""

    def goal(self, inputs: Mapping[str, Any], target: Any) -> Any:
        """Give what the output of this batch is compared with; called once for a batch, before the forward pass."""

    def loss(self, output: Any, goal: Any) -> Tensor:
        """Give the scalar loss."""

    def move(self, device: torch.device) -> None:
        """Bring what the loss itself holds, such as class weights, to a device."""

    def describe(self) -> str:
        """Name the objective; a run is only resumed with the same."""


@dataclass(frozen=True)
class TaskLoss:
    """Compare the network's output with the loader's target.

    Args:
        function: ``(output, target) -> scalar``. It sees the network's output as it is, or what `select` picks of it.
        select: picks a tensor of the output.
    """

    function: Loss
    select: Select | None = None
    needs_complete = False
    needs_target = True

    def goal(self, inputs: Mapping[str, Any], target: Any) -> Any:
        """Give the loader's target."""
        return target

    def loss(self, output: Any, goal: Any) -> Tensor:
        """Give the task's loss; `TrainingError` where the function refuses what it is given."""
        scores = output if self.select is None else self.select(output)
        try:
            return self.function(scores, goal)
        except (SubsenseError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise TrainingError(
                f"loss: {self.describe()} refuses the output, {_described(scores)}, with the target, "
                f"{_described(goal)}: {error}. {_hint(scores, goal)}"
            ) from error

    def move(self, device: torch.device) -> None:
        """Move the function where it is a module."""
        _move(self.function, device)

    def describe(self) -> str:
        """Name the function."""
        return name_of(self.function)


@dataclass(frozen=True)
class Distill:
    """Learn from the network itself, without a label: its output with every modality present is the target.

    Class scores are compared by cross-entropy with the softened target, times temperature^2 so that the gradient keeps
    its size (Hinton et al. 2015, section 2); for each pixel or token where the output has more axes. Values are
    compared by the mean squared error.

    Where the output has pixels or tokens, most of them are often of one class, and a mean over them leaves the others
    no say. So each counts by the rarity of the class that the target gives it: its share of the batch to the power of
    `-rarity`, relative to the mean.

    Args:
        temperature: softens both sides; 1: not at all.
        task: a task loss ``(output, target) -> scalar`` to mix in, which reads the loader's target.
        task_weight: its share: the loss is ``(1 - task_weight) * distillation + task_weight * task``.
        scores: ``"classes"``, ``"values"``, or ``"auto"``: classes where there is more than one along `class_axis`.
        class_axis: the output's axis of classes.
        rarity: how much more a rare class counts, 0: not at all, to 1: each class as much as every other.

    Raises:
        TrainingError: names every argument that cannot be.

    >>> Distill(temperature=4.0).compare(torch.zeros(1, 2), torch.zeros(1, 2)) / 16
    tensor(0.6931)
    """

    temperature: float = 2.0
    task: Loss | None = None
    task_weight: float = 0.0
    scores: str = "auto"
    class_axis: int = 1
    rarity: float = 0.5

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.rarity <= 1:
            faults.append(f"rarity: expected 0 to 1, but found {self.rarity!r}")
        if not 0 < self.temperature < float("inf"):
            faults.append(f"temperature: expected a number above 0, but found {self.temperature!r}")
        if self.scores not in SCORES:
            faults.append(f"scores: expected one of {', '.join(SCORES)}, but found {self.scores!r}."
                          f"{closest(str(self.scores), SCORES)}")  # fmt: skip
        if not 0 <= self.task_weight <= 1:
            faults.append(f"task_weight: expected 0 to 1, but found {self.task_weight!r}")
        elif (self.task is None) != (self.task_weight == 0):
            faults.append("task and task_weight: expected both or neither: a task loss has a weight above 0")
        if faults:
            raise TrainingError("Distill: " + "; ".join(faults))

    def compare(self, scores: Tensor, target: Tensor) -> Tensor:
        """Give the distance of scores to the target's scores, both (batch, ...): a scalar."""
        if not self._are_classes(target):
            return functional.mse_loss(scores, target)
        soft = (target / self.temperature).movedim(self.class_axis, 1).softmax(1)
        scores = (scores / self.temperature).movedim(self.class_axis, 1)
        if soft.dim() == 2 or not self.rarity:
            return functional.cross_entropy(scores, soft) * self.temperature**2
        distance = functional.cross_entropy(scores, soft, reduction="none")
        return (distance * self._weights(soft)).mean() * self.temperature**2

    def _weights(self, soft: Tensor) -> Tensor:
        """Weigh positions by the rarity of their class: (batch, ...) of (batch, class, ...), with a mean of 1."""
        classes = soft.argmax(1)
        shares = torch.bincount(classes.flatten(), minlength=soft.shape[1]).to(soft) / classes.numel()
        weights = shares.clamp(min=1 / classes.numel()).pow(-self.rarity)[classes]
        return weights / weights.mean()

    def _are_classes(self, scores: Tensor) -> bool:
        has_axis = -scores.dim() <= self.class_axis < scores.dim()
        if self.scores == "auto":
            return has_axis and scores.shape[self.class_axis] > 1
        if self.scores == "classes" and not has_axis:
            raise InputError(f"Distill(class_axis={self.class_axis}): the output has shape {tuple(scores.shape)}")
        return self.scores == "classes"


@dataclass(frozen=True)
class Distillation:
    """Compare the network's output with the teacher's.

    Args:
        distill: how.
        teacher: inputs -> output of the network with every modality present.
        select: picks the tensor of an output.
    """

    distill: Distill
    teacher: Callable[[Mapping[str, Any]], Any]
    select: Select | None = None
    needs_complete = True

    @property
    def needs_target(self) -> bool:
        """Say whether a task loss is mixed in."""
        return self.distill.task is not None

    def goal(self, inputs: Mapping[str, Any], target: Any) -> Any:
        """Give the teacher's scores, and the loader's target for the task loss."""
        with torch.no_grad():
            return self._pick(self.teacher(inputs)), target

    def loss(self, output: Any, goal: Any) -> Tensor:
        """Give the distance to the teacher, mixed with the task's loss."""
        scores, target = goal
        distance = self.distill.compare(self._pick(output), scores)
        if self.distill.task is None:
            return distance
        task = TaskLoss(self.distill.task, self.select).loss(output, target)
        return (1 - self.distill.task_weight) * distance + self.distill.task_weight * task

    def move(self, device: torch.device) -> None:
        """Move the task's loss where it is a module."""
        _move(self.distill.task, device)

    def describe(self) -> str:
        """Name temperature, mixture and kind of scores."""
        task = None if self.distill.task is None else name_of(self.distill.task)
        return repr(replace(self.distill, task=None, task_weight=0.0)) + f" with task {task} {self.distill.task_weight}"

    def _pick(self, output: Any) -> Tensor:
        return (self.select or select_scores)(output)


def make_objective(
    loss: Loss | Distill | str, teacher: Callable[[Mapping[str, Any]], Any] | None, select: Select | None
) -> TaskLoss | Distillation:
    """Make the objective of what a user passes as loss.

    Args:
        loss: ``(output, target) -> scalar``, ``"distill"``, or a `Distill`.
        teacher: inputs -> output of the network with every modality present; None: there is nothing to learn from.
        select: picks the tensor of a structured output.

    Raises:
        TrainingError: none of these, or nothing to distil from.
    """
    if isinstance(loss, str) and loss == "distill":
        loss = Distill()
    if isinstance(loss, Distill):
        if teacher is None:
            raise TrainingError("loss: 'distill' needs a trained network to learn from; pass a task loss")
        return Distillation(loss, teacher, select)
    if not callable(loss) or isinstance(loss, type):
        wanted = "(output, target) -> scalar, 'distill' or a Distill"
        found = f"the class {loss.__name__} itself" if isinstance(loss, type) else repr(loss)
        raise TrainingError(f"loss: expected {wanted}, but found {found}.{_nearest_loss(loss)}")
    return TaskLoss(loss, select)


def _nearest_loss(loss: object) -> str:
    """Say what may have been meant: an instance of a class, one of torch's functions, or distillation."""
    if isinstance(loss, type):
        return f" Pass an instance: loss={loss.__name__}()"
    if not isinstance(loss, str):
        return ""
    known = {name.replace("_", "").removesuffix("loss"): f"torch.nn.functional.{name}" for name in TORCH_LOSSES} | {
        "distill": "'distill'"
    }
    near = get_close_matches(loss.lower().replace("_", "").removesuffix("loss"), known, 1)
    return f" Did you mean {known[near[0]]}?" if near else " Pass a function, such as torch.nn.functional.cross_entropy"


def _described(value: Any) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _hint(scores: Any, goal: Any) -> str:
    """Say what may be wrong between scores and target."""
    if not isinstance(scores, Tensor):
        return "Say by select= which tensor of the output is meant, such as select=lambda output: output.logits"
    if not isinstance(goal, Tensor) or scores.dim() < 2 or not goal.numel():
        return "Let the loader yield a target that fits"
    if goal.dtype not in (torch.int64, torch.uint8) and goal.dim() == scores.dim() - 1:
        return "Class indices are whole numbers, and torch's losses take them as int64: target.long()"
    low, high = goal.min().item(), goal.max().item()
    if not goal.is_floating_point() and (low < 0 or high >= scores.shape[1]):
        return (
            f"Class indices go from {low} to {high}, and there are scores for {scores.shape[1]} classes, 0 to "
            f"{scores.shape[1] - 1}; where an index marks what doesn't count, give it to the loss as ignore_index"
        )
    return "Let the loader yield a target that fits, or pass select= for another tensor of the output"


def _move(function: Loss | None, device: torch.device) -> None:
    if isinstance(function, nn.Module):
        function.to(device)


def name_of(function: Callable[..., Any]) -> str:
    """Name a function or callable object."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))
