"""Embedding tables: shifted where they are asked for, left alone where they can't be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import subsense as ss


class Words(nn.Module):
    def __init__(self, tied: bool = False, **options: float) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(9, 4, padding_idx=0, **options), nn.Embedding(7, 4)
        self.head = nn.Linear(4, 9)
        if tied:
            self.head.weight = self.left.weight

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(left) + self.right(right)).mean(1))


AXES = {"left": "5:int64", "right": "5:int64"}


@pytest.mark.parametrize("sharing", ["additive", "independent"])
def test_the_shift_is_right_in_rows_fold_and_gradients(sharing: str) -> None:
    torch.manual_seed(0)
    robust = ss.adapt(Words().double(), AXES, method=["ssf", "embedding"], sharing=sharing)
    assert [(site.key, site.label) for site in robust.plan.sites] == [
        ("left", "embedding (shift)"), ("right", "embedding (shift)"), ("head", "ssf"),
    ]  # fmt: skip
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.normal_()
    robust.mark_trained("all")
    robust.eval()
    x = {"left": torch.randint(0, 9, (4, 5)), "right": torch.randint(0, 7, (4, 5))}
    present = torch.tensor([[True, False], [False, True], [True, True], [True, False]])
    together = robust(x, present)
    alone = torch.cat([robust({k: v[i : i + 1] for k, v in x.items()}, present[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    args, kwargs = ss.prepare(robust, {"right": x["right"]})
    torch.testing.assert_close(ss.fold(robust, "right")(*args, **kwargs), robust({"right": x["right"]}))
    bank = robust.banks.named()["left:embedding:shift"]
    (grad,) = torch.autograd.grad(together.square().sum(), bank)
    row, step = int(grad.abs().sum(1).argmax()), 1e-6
    bank.data[row, 1] += step
    with torch.no_grad():
        slope = float((robust(x, present).square().sum() - together.square().sum()) / step)
    assert slope == pytest.approx(float(grad[row, 1]), rel=1e-4)


@pytest.mark.parametrize("network", [Words(tied=True), Words(max_norm=1.0)])
def test_a_shared_or_changing_table_is_no_site(network: nn.Module) -> None:
    assert [site.key for site in ss.plan(network, "embedding").sites] == ["right"]


def test_other_methods_leave_tables_alone() -> None:
    assert [site.key for site in ss.plan(Words(), ["ssf", "lora"]).sites] == ["head"]
