"""A model's plan counts all of its bank rows, which is what is trained and kept."""

import pytest
import torch
from torch import nn

import subsense as ss


class Sum(nn.Module):
    """(batch, 4), (batch, 6) -> (batch, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 2), nn.Linear(6, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.a(left) + self.b(right)


@pytest.mark.parametrize(("sharing", "combinations", "rows"), [("additive", "all", 2), ("independent", ["left"], 1)])
def test_the_plan_says_the_share_of_all_rows(sharing: str, combinations: object, rows: int) -> None:
    spec = {"left": "4", "right": "6"}
    robust = ss.adapt(Sum(), spec, sharing=sharing, combinations=combinations)
    total = sum(parameter.numel() for parameter in robust.adapter_parameters().values())
    assert total == rows * robust.plan.parameters_per_row == 8 * rows
    assert f"{rows} bank rows: {total} parameters in all, {total / 24:.2%}" in str(robust.plan)
    assert "in all" not in str(ss.plan(Sum()))
