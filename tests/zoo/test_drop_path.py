"""Stochastic depth."""

import pytest
import torch

from subsense.zoo.drop_path import DropPath


def test_drops_whole_rows_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(20_000, 2, 3))
    assert torch.equal(dropped, dropped[:, :1, :1].expand(-1, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


def test_drops_nothing_in_eval_mode_or_at_rate_zero():
    ones = torch.ones(100, 2)
    assert torch.equal(DropPath(0.9).eval()(ones), ones)
    assert torch.equal(DropPath(0.0).train()(ones), ones)
