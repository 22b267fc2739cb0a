"""A layer that was replaced after `adapt` is named, whatever is asked of the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import subsense as ss

AXES = {"left": "4", "right": "4"}
INPUTS = {"left": torch.ones(6, 4), "right": torch.ones(6, 4)}
TARGET = torch.tensor([0, 1, 2, 0, 1, 2])
COMPLETE = {"combinations": ["left+right"], "metric": "accuracy", "progress": False}


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.body(left) + self.body(right))


ASKED: dict[str, Callable[[ss.RobustModel], Any]] = {
    "a complete call": lambda robust: robust(INPUTS),
    "the frozen network": lambda robust: robust.pretrained({"left": INPUTS["left"]}),
    "complete features": lambda robust: robust.features(INPUTS),
    "evaluate": lambda robust: ss.evaluate(robust, [(INPUTS, TARGET)], **COMPLETE),
    "train": lambda robust: ss.train(robust, [(INPUTS, TARGET)], loss=cross_entropy, epochs=1, progress=False),
    "separate": lambda robust: ss.train(
        robust, [(INPUTS, TARGET)], loss=cross_entropy, strategy="separate", epochs=1, progress=False
    ),
    "calibrate": lambda robust: ss.calibrate(robust, [INPUTS], progress=False),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("place", ["head", "body.0", "body"])
def test_a_replaced_layer_is_named(place: str, asked: Callable[[ss.RobustModel], Any]) -> None:
    robust = ss.adapt(Sum(), AXES)
    owner, _, name = place.rpartition(".")
    other = nn.Linear(5, 3) if place == "head" else nn.Linear(4, 5)
    setattr(robust.network.get_submodule(owner), name, nn.Sequential(other, nn.ReLU()) if place == "body" else other)
    gone = "body.0" if place == "body" else place
    with pytest.raises(ss.PlanError, match=rf"^{gone}: replaced since `adapt`.* put it back, or detach"):
        asked(robust)


def test_what_is_put_back_or_detached_runs() -> None:
    network = Sum()
    robust = ss.adapt(network, AXES)
    head, expected = network.head, robust(INPUTS)
    network.head = nn.Linear(5, 3)
    with pytest.raises(ss.PlanError, match="head: replaced"):
        robust(INPUTS)
    network.head = head
    assert torch.equal(robust(INPUTS), expected)
    robust.detach()
    network.head = nn.Linear(5, 3)
    assert network(**INPUTS).shape == (6, 3)
    assert ss.adapt(network, AXES)(INPUTS).shape == (6, 3)


def test_a_layer_that_nobody_calls_is_still_told_as_such() -> None:
    network = Sum()
    network.spare = nn.Linear(4, 4)
    with pytest.raises(ss.LayerNeverCalled, match="never calls spare"):
        ss.train(ss.adapt(network, AXES), [(INPUTS, TARGET)], loss=cross_entropy, epochs=1, progress=False)
