"""Where rows that lack different things can't share a batch, the advice can be followed where it is given."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import subsense as ss
from subsense.training.report import TrainingReport

AXES = {"a": "5 6", "b": "4"}
INPUTS = {"a": torch.randn(8, 5, 6), "b": torch.randn(8, 4)}
TARGET = torch.randint(3, (8,))


class Recurrent(nn.Module):
    """Give class scores, and a number beside them that no row has."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.b, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.gru(a)[0][:, -1] + self.b(b))
        return {"logits": logits, "aux": logits.mean()}


def loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return cross_entropy(output["logits"], target)


def run(robust: ss.RobustModel, loader: Any, **options: Any) -> TrainingReport:
    return ss.train(robust, loader, loss=loss, epochs=1, progress=False, **options)


def of_a_loader() -> DataLoader[Any]:
    samples: Any = [({name: one[row] for name, one in INPUTS.items()}, TARGET[row]) for row in range(8)]
    del samples[0][0]["b"]
    return DataLoader(samples, 8, collate_fn=ss.Collate(AXES))


@pytest.mark.parametrize("loader", [lambda: [(INPUTS, TARGET)], of_a_loader])
def test_joint_training_says_to_train_one_combination_after_the_other(loader: Callable[[], Any]) -> None:
    robust = ss.adapt(Recurrent(), AXES)
    with pytest.raises(
        ss.TrainingError, match=r"\(shape \(\)\) has no place for rows; train one .*='separate'.*gru \(GRU"
    ):
        run(robust, loader())
    assert run(robust, loader(), strategy="separate").steps


def test_what_else_separate_training_needs_is_said() -> None:
    robust = ss.adapt(Recurrent(), AXES, sharing="additive", fill={"a": "learned"})
    with pytest.raises(
        ss.TrainingError, match=r"'separate', after adapt with sharing='independent' and a fill that isn't learned\."
    ):
        run(robust, [(INPUTS, TARGET)])


def test_a_call_names_the_layer_that_makes_groups_necessary() -> None:
    robust = ss.adapt(Recurrent(), AXES, untrained="pretrained")
    robust.mark_trained("all")
    with pytest.raises(
        ss.InputError, match=r"pass rows with the same .*because of this: gru \(GRU\): adapted in"
    ) as found:
        robust(INPUTS, torch.eye(2).bool().repeat(4, 1))
    assert type(found.value) is ss.InputError


def test_a_network_that_is_fine_tuned_is_told_of_one_for_each_combination() -> None:
    robust = ss.adapt(Recurrent(), AXES, call=lambda network, inputs: network(**inputs))
    with pytest.raises(ss.TrainingError, match=r"subsense\.train_dedicated.*isn't told what each row has"):
        ss.finetune(robust, [(INPUTS, TARGET)], loss=loss, epochs=1, progress=False)


def test_a_graph_with_present_says_which_layer_keeps_it_from_being_one() -> None:
    robust = ss.adapt(Recurrent(), AXES, untrained="pretrained").eval()
    robust.locate(INPUTS)
    with pytest.raises(ss.InputError, match=r"because of this: gru \(GRU\)"):
        torch.export.export(robust, (INPUTS, torch.eye(2).bool().repeat(4, 1)))
