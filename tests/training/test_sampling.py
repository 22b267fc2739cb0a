"""`draw_present`: seeded, only what is there, by weight."""

import pytest
import torch

from subsense import Modalities, ModalityError, draw_present

MODALITIES = Modalities({"rgb": "3", "depth": "1", "imu": "2"})


def test_the_same_seed_draws_the_same_and_another_draws_another() -> None:
    everything = torch.ones(64, 3, dtype=torch.bool)
    one, again, other = (draw_present(MODALITIES, everything, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.any(1).all()
    assert not one.all(1).any()


def test_nothing_is_drawn_that_a_row_lacks() -> None:
    has = torch.tensor([[True, False, True]] * 20 + [[False, True, False]] * 20)
    present = draw_present(MODALITIES, has, seed=0)
    assert not (present & ~has).any()
    assert present[:20].sum(1).float().mean() < 2  # rgb, imu, rgb+imu all occur
    assert torch.equal(present[20:], has[20:])


def test_weights_say_how_often() -> None:
    everything = torch.ones(4000, 3, dtype=torch.bool)
    weights = {"rgb": 3.0, "depth": 1.0}
    present = draw_present(MODALITIES, everything, seed=0, combinations=["rgb", "depth"], weights=weights)
    assert float(present[:, 0].float().mean()) == pytest.approx(0.75, abs=0.03)
    assert (present.sum(1) == 1).all()


def test_a_row_that_nothing_fits_keeps_what_it_has() -> None:
    has = torch.tensor([[False, False, True], [True, True, True]])
    present = draw_present(MODALITIES, has, seed=0, combinations=["rgb+depth"])
    assert present.tolist() == [[False, False, True], [True, True, False]]


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ModalityError, match="at least one"):
        draw_present(MODALITIES, torch.ones(2, 3, dtype=torch.bool), seed=0, combinations=[])
