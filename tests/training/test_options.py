import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subsense.errors import TrainingError
from subsense.modalities import Modalities
from subsense.training.options import TrainOptions
from subsense.training.sampling import Drawer
from subsense.training.seeding import derive_seed

MODALITIES = Modalities({"rgb": "3 H W", "depth": "1 H W", "imu": "6"})


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
@pytest.mark.parametrize("warmup", [0, 0.1, 10])
def test_the_rate_rises_and_falls(schedule: str, warmup: float) -> None:
    options = TrainOptions(lr=2.0, schedule=schedule, warmup=warmup)
    rates = [options.learning_rate(step, 100) for step in range(100)]
    top = 10 if warmup else 1
    assert max(rates) == 2.0
    assert rates[top - 1] == pytest.approx(2.0, rel=0.01)
    assert rates[: top - 1] == pytest.approx([2.0 * (step + 1) / 10 for step in range(top - 1)])
    assert all(late <= early for early, late in zip(rates[top:], rates[top + 1 :], strict=False))
    assert (rates[-1] == 2.0) == (schedule == "constant")
    assert rates[-1] > 0


def test_the_rate_follows_the_formulas() -> None:
    after_a_quarter = {"cosine": 0.5 * (1 + math.cos(math.pi / 4)), "poly": 0.75**0.9, "constant": 1.0}
    for schedule, share in after_a_quarter.items():
        assert TrainOptions(lr=1.0, schedule=schedule, warmup=0).learning_rate(25, 100) == pytest.approx(share)


def test_the_rate_is_constant_where_the_end_is_not_known() -> None:
    options = TrainOptions(lr=1.0, schedule="constant", warmup=4)
    assert [options.learning_rate(step, None) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_an_unknown_option_is_refused_with_the_near_miss() -> None:
    with pytest.raises(TrainingError, match=r"unknown option 'wamup'\. Did you mean 'warmup'"):
        TrainOptions.of({"wamup": 3})


rows = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12)


@given(available=rows, chosen=st.sets(st.integers(0, 6), min_size=1), seed=st.integers(0, 2**32 - 1))
def test_each_row_draws_among_the_combinations_that_fit(
    available: list[list[bool]], chosen: set[int], seed: int
) -> None:
    combinations = [MODALITIES.combinations()[index] for index in sorted(chosen)]
    has = torch.tensor(available)
    draw = Drawer(MODALITIES, combinations).draw(has, seed)
    fitting = [any(all(row[MODALITIES.names.index(name)] for name in one) for one in combinations) for row in available]
    assert draw.rows.tolist() == [index for index, fits in enumerate(fitting) if fits]
    assert not (draw.present & ~has[draw.rows]).any()
    for which, present in zip(draw.which.tolist(), draw.present, strict=True):
        assert torch.equal(present, MODALITIES.present(combinations[which]))


def test_a_draw_is_a_function_of_its_seed_alone() -> None:
    drawer, has = Drawer(MODALITIES, MODALITIES.incomplete()), torch.ones(64, 3, dtype=torch.bool)
    state = torch.get_rng_state()
    first = drawer.draw(has, 5).which
    torch.rand(1)
    assert torch.equal(first, drawer.draw(has, 5).which)
    assert not torch.equal(first, drawer.draw(has, 6).which)
    torch.set_rng_state(state)
    drawer.draw(has, 7)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_say_how_often_a_combination_is_drawn() -> None:
    has = torch.ones(4000, 3, dtype=torch.bool)
    drawer = Drawer(MODALITIES, MODALITIES.incomplete(), {"rgb": 3.0, "imu+depth": 0.0})
    shares = drawer.draw(has, 0).which.bincount(minlength=6) / 4000
    assert shares[0].item() == pytest.approx(3 / 7, abs=0.03)
    assert shares[1].item() == pytest.approx(1 / 7, abs=0.03)
    assert shares[5] == 0


def test_seeds_of_different_draws_differ() -> None:
    seeds = {derive_seed(seed, what, epoch, batch, rank) for seed in range(3) for what in ("draw", "forward")
             for epoch in range(5) for batch in range(5) for rank in range(3)}  # fmt: skip
    assert len(seeds) == 3 * 2 * 5 * 5 * 3
    assert all(0 <= seed < 2**32 for seed in seeds)
