"""A layer that is replaced after `adapt`, by fusing, quantising or by hand, is no silent wrong number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import only, with_sets


class Net(nn.Module):
    """Two maps into a convolution, its norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(left + 2 * right))).mean((2, 3)))


def fuse(network: Net) -> None:
    torch.ao.quantization.fuse_modules(network, [["conv", "norm"]], inplace=True)


def replace_by_hand(network: Net) -> None:
    network.head = nn.Linear(4, 3)


def convert(network: Net) -> None:
    network.norm = nn.SyncBatchNorm.convert_sync_batchnorm(network.norm)


def adapted() -> ss.RobustModel:
    torch.manual_seed(0)
    return with_sets(ss.adapt(Net().eval(), {"left": "2 5 5", "right": "2 5 5"}))


INPUTS = {"left": torch.randn(3, 2, 5, 5), "right": torch.randn(3, 2, 5, 5)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("change", [fuse, replace_by_hand, convert])
def test_a_call_a_fold_and_a_save_say_so(change: Callable[[Net], None], has_run: bool, tmp_path: Path) -> None:
    robust = adapted()
    if has_run:
        robust(only(INPUTS, ["left"]))
    change(robust.network)
    with pytest.raises(ss.PlanError, match="replaced since `adapt`"):
        robust(only(INPUTS, ["left"]))
    with pytest.raises(ss.PlanError, match="replaced since `adapt`"):
        ss.fold(robust, "left")
    with pytest.raises(ss.PlanError, match="replaced since `adapt`"):
        ss.save(robust, tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


@pytest.mark.filterwarnings("ignore")
def test_folding_first_and_fusing_then_is_right() -> None:
    robust = adapted()
    plain = ss.fold(robust, "left")
    fuse(plain)
    args, kwargs = ss.prepare(robust, only(INPUTS, ["left"]))
    with torch.no_grad():
        assert torch.allclose(plain(*args, **kwargs), robust(only(INPUTS, ["left"])), atol=1e-5)


def test_what_is_put_back_acts_again() -> None:
    robust = adapted()
    expected, head = robust(only(INPUTS, ["left"])), robust.network.head
    replace_by_hand(robust.network)
    robust.network.head = head
    assert torch.equal(robust(only(INPUTS, ["left"])), expected)
