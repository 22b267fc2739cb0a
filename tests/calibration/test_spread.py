"""Sets that share bank rows are solved together, each from a piece of the rows, so that memory stays small."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import only
from subsense.calibration.rows import FEWEST, SIDE_BY_SIDE, spread

NAMES = "abcd"


class Four(nn.Module):
    """(batch, 3) four times -> (batch, 2)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(torch.cat([a, b, c, d], 1))))


def inputs_of(rows: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(rows, 3, dtype=torch.float64) + 1 for name in NAMES}


def adapted(sharing: str = "additive") -> ss.RobustModel:
    spec = dict.fromkeys(NAMES, "3:float64")
    return ss.adapt(Four().double(), spec, method="shift", sharing=sharing, include=["head"])


def test_shared_shifts_are_the_least_squares_of_each_sets_own_piece() -> None:
    """14 sets on 3 pieces: numpy's solution for the mean differences, each set weighted alike."""
    robust, inputs = adapted(), inputs_of(120)
    ss.calibrate(robust, [inputs], held_out=0.0, positions=None, progress=False)
    pieces = spread(inputs, 14)
    assert len(pieces) == 3
    differences, missing = [], []
    for number, one in enumerate(robust.combinations):
        piece = pieces[number % 3]
        goal, own = robust.features(piece), robust.features(only(piece, one), adapted=False)
        differences.append((goal["head"][0] - own["head"][0]).mean(0).numpy())
        missing.append([float(name not in one) for name in NAMES])
    expected = np.linalg.lstsq(np.array(missing), np.array(differences), rcond=None)[0]
    np.testing.assert_allclose(robust.adapter_parameters()["head:shift:shift"].detach(), expected, atol=1e-9)


@pytest.mark.parametrize(("sharing", "most"), [("additive", SIDE_BY_SIDE * 240), ("independent", 240)])
def test_no_batch_is_larger_than_so_many_times_the_rows(sharing: str, most: int) -> None:
    robust, seen = adapted(sharing), []
    robust.network.head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    ss.calibrate(robust, [inputs_of(240)], held_out=0.0, progress=False)
    assert 0.8 * most < max(seen) <= most * 1.05


@pytest.mark.parametrize(("rows", "sets"), [(100, 14), (97, 30), (64, 6), (65, 11)])
def test_no_row_is_left_out_and_pieces_are_alike(rows: int, sets: int) -> None:
    pieces = spread({"a": torch.arange(rows), "more": {"b": torch.arange(rows)}}, sets)
    sizes = {len(one["a"]) for one in pieces}
    assert len(sizes) == 1
    assert min(sizes) >= FEWEST
    assert set(torch.cat([one["a"] for one in pieces]).tolist()) == set(range(rows))
    assert all(torch.equal(one["a"], one["more"]["b"]) for one in pieces)


@pytest.mark.parametrize(("rows", "sets"), [(63, 14), (1000, 3)])
def test_few_rows_and_few_sets_stay_whole(rows: int, sets: int) -> None:
    inputs = {"a": torch.arange(rows)}
    assert spread(inputs, sets) == [inputs]
