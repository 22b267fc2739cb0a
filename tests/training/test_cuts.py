"""Adapters that no gradient reaches although the loss depends on them are told from those without effect."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import subsense as ss

SPEC = {"left": "4", "right": "4"}


class Rounded(nn.Module):
    """Be what int8 activations are: whole numbers, outside of autograd."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return (x * 16).round() / 16


class Network(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.middle = nn.Linear(4, 8), nn.Linear(4, 8), middle
        self.head, self.unused = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        fused = self.middle(self.left(left) + self.right(right))
        self.thrown_away = self.unused(fused)
        return self.head(fused)


def sites(names: tuple[str, ...]) -> set[str]:
    return {name.split(":")[0] for name in names}


def trained(middle: nn.Module, sharing: str = "additive", **options: Any) -> tuple[ss.RobustModel, Any]:
    robust = ss.adapt(Network(middle), SPEC, sharing=sharing)
    inputs = {name: torch.randn(16, 4, generator=torch.Generator().manual_seed(1)) for name in SPEC}
    data = [(inputs, torch.arange(16) % 3)] * 2
    return robust, ss.train(robust, data, loss=F.cross_entropy, epochs=2, progress=False, **options)


@pytest.mark.parametrize("strategy", ["joint", "separate"])
def test_a_layer_that_lets_no_gradient_through_is_the_cause_that_is_named(strategy: str) -> None:
    _, report = trained(Rounded(), "independent", strategy=strategy, safe=False)

    assert sites(report.cut) == {"left", "right"}
    assert sites(report.idle) == {"left", "right", "unused"}
    text = str(report)
    assert "lets no gradient through (int8 activations, detach(), rounding): left, right; train before" in text
    assert "nothing the loss sees depends on them (exclude them, or leave them): unused" in text


def test_without_such_a_layer_nothing_is_cut() -> None:
    _, report = trained(nn.Identity())
    assert report.cut == ()


def test_calibrating_needs_no_gradient_as_the_report_says() -> None:
    robust, _ = trained(Rounded(), safe=False)
    before = {name: one.detach().clone() for name, one in robust.adapter_parameters().items()}
    ss.calibrate(robust, [{name: torch.randn(64, 4) for name in SPEC}])
    moved = [name for name, one in robust.adapter_parameters().items() if not torch.equal(one, before[name])]
    assert {"left", "right"} <= sites(tuple(moved))
