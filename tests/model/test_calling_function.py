"""A function that calls the network: rows of a mixed batch come out as each does alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import with_sets

SPEC = {"left": "4", "right": "6"}
INPUTS = {"left": torch.randn(5, 4), "right": torch.randn(5, 6)}
PRESENT = torch.tensor([[True, True], [True, False], [False, True], [True, False], [True, True]])


class Net(nn.Module):
    """(batch, 4), (batch, 6) -> (batch, 3); the right one counts where it is weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor, weight: Tensor) -> Any:
        return self.head(torch.relu(self.left(left) + weight * self.right(right)))


def looking(network: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """Look at all stand-ins together, as one does who leaves a modality out when it is zero."""
    return network(**inputs, weight=torch.tensor(1.0 if inputs["right"].any() else 0.0))


def told(network: nn.Module, inputs: dict[str, Tensor], present: Tensor) -> Any:
    assert present.dtype == torch.bool
    assert present.shape == (len(inputs["left"]), 2)
    return network(**inputs, weight=present[:, 1:].to(inputs["left"]))


def rows(model: Any) -> Tensor:
    one_by_one = ({name: x[row : row + 1] for name, x in INPUTS.items()} for row in range(5))
    return torch.cat([model(inputs, PRESENT[row : row + 1]) for row, inputs in enumerate(one_by_one)])


@pytest.mark.parametrize("untrained", ["nearest", "pretrained"])
@pytest.mark.parametrize("call", [looking, told])
def test_mixed_rows_come_out_as_alone(call: Any, untrained: Any) -> None:
    torch.manual_seed(0)
    robust = with_sets(ss.adapt(Net(), SPEC, call=call, combinations=["left"], untrained=untrained))
    baseline = robust.filled(Net().eval())
    for model in (robust, robust.pretrained, baseline):
        with torch.no_grad():
            torch.testing.assert_close(model(INPUTS, PRESENT), rows(model), rtol=1e-5, atol=1e-6)


def test_a_function_that_is_told_runs_once_and_folds(tmp_path: Path) -> None:
    calls = []

    def counting(network: nn.Module, inputs: dict[str, Tensor], present: Tensor) -> Any:
        calls.append(present)
        return told(network, inputs, present)

    robust = with_sets(ss.adapt(Net(), SPEC, call=counting))
    robust(INPUTS, PRESENT)
    calls.clear()
    robust(INPUTS, PRESENT)
    assert [present.tolist() for present in calls] == [PRESENT.tolist()]
    only = {"left": INPUTS["left"]}
    plain = robust.filled(ss.fold(robust, "left", example=only))
    torch.testing.assert_close(plain(only), robust(only), rtol=1e-5, atol=1e-6)
