"""Losses that can't be, and targets that don't fit them: said by us, with a way out that works."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from networks import TOWERS, Towers, draw
from subsense import TrainingError, adapt, train
from subsense.errors import ModalityError
from subsense.modalities.calling import parse_call


def run(loss: Any, target: Any) -> None:
    robust = adapt(Towers(), TOWERS)
    train(robust, [(draw(TOWERS, rows=4), target)], loss=loss, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss, r"found the class CrossEntropyLoss itself. Pass an instance: loss=CrossEntropyLoss\(\)"),
        ("crossentropy", "found 'crossentropy'. Did you mean torch.nn.functional.cross_entropy"),
        ("MSELoss", "Did you mean torch.nn.functional.mse_loss"),
        ("distil", "Did you mean 'distill'"),
        ("zzz", "Pass a function, such as torch.nn.functional.cross_entropy"),
        (3, "but found 3"),
    ],
)
def test_what_is_no_loss(loss: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        run(loss, torch.zeros(4).long())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(4), r"cross_entropy refuses the output, \(4, 3\) of torch.float32, .*\(4,\).*target.long\(\)"),
        (torch.zeros(4).int(), r"the target, \(4,\) of torch.int32: .* take them as int64: target.long\(\)"),
        (torch.tensor([0, 1, 2, 7]), "Class indices go from 0 to 7, and there are scores for 3 classes, 0 to 2"),
        ([0, 1, 2, 0], "with the target, list"),
    ],
)
def test_targets_that_a_loss_refuses(target: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        run(cross_entropy, target)


def test_the_ways_out_work() -> None:
    run(nn.CrossEntropyLoss(), torch.zeros(4).long())
    run(nn.CrossEntropyLoss(ignore_index=7), torch.tensor([0, 1, 2, 7]))


class WithMask(nn.Module):
    def forward(self, left: Any, right: Any, mask: Any, scale: float = 1.0) -> Any:
        return left


@pytest.mark.parametrize(
    ("network", "spec", "call", "message"),
    [
        (Towers, {"left": "4", "rigth": "6"}, "kwargs", "no argument 'rigth'; it has left, right.*mean 'right'"),
        (Towers, TOWERS, {"left": "lft", "right": "right"}, "has no argument 'lft'"),
        (WithMask, TOWERS, "kwargs", "WithMask.forward needs 'mask', which no modality is"),
    ],
)  # fmt: skip
def test_names_are_compared_with_forward_before_anything_changes(
    network: Any, spec: Any, call: Any, message: str
) -> None:
    made = network()
    made.train()
    with pytest.raises(ModalityError, match=message):
        adapt(made, spec, call=call)
    assert made.training


def test_what_cannot_be_told_passes() -> None:
    class Any_(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, **inputs: Any) -> Any:
            return self.inner(inputs["a"] + inputs["b"])

    robust = adapt(Any_(), {"a": "4", "b": "4"})
    robust.mark_trained("all")
    assert robust.eval()({"a": torch.zeros(2, 4)}).shape == (2, 3)
    assert parse_call("kwargs", robust.modalities).form == "kwargs"
