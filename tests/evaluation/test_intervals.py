"""Bootstrap intervals: their measure is torchmetrics', their width the one of a bootstrap row by row."""

import numpy as np
import pytest
import torch
from torch import Tensor

from subsense.evaluation import metrics
from subsense.evaluation.intervals import ADDITIVE, GROUPS, Bootstrap, interval, interval_of_mean

CLASSES = ("accuracy", "top-5", "f1", "weighted-f1", "miou", "miou-labelled")


def drawn(name: str, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if name in CLASSES:
        target = torch.randint(7, (rows,), generator=generator)
        return torch.randn(rows, 7, generator=generator) + 2 * torch.nn.functional.one_hot(target, 7), target
    target = (2 * torch.randn(rows, 1, generator=generator)).round()
    return target + torch.randn(rows, 1, generator=generator), target


@pytest.mark.parametrize("name", ADDITIVE)
def test_the_sums_give_what_torchmetrics_gives(name: str) -> None:
    scores, target = drawn(name, 300)
    measure = metrics.build(name).fresh()
    for part in range(0, 300, 90):
        measure.update(scores[part : part + 90], target[part : part + 90])
    bootstrap = measure._bootstrap
    assert bootstrap is not None
    assert bootstrap.sums is not None
    total = bootstrap.additive.finish(bootstrap.sums.sum(0, keepdim=True))
    assert float(total) == pytest.approx(measure.compute(), abs=1e-6)
    low, high = interval(measure.resampled()) or (0.0, 0.0)
    assert low < measure.compute() < high


def test_pixels_that_do_not_count_have_no_say() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 4, 5, 6, generator=generator)
    target = torch.randint(4, (20, 5, 6), generator=generator)
    target[:, 0] = 255
    for name in ("miou", "accuracy", "f1"):
        measure = metrics.build(name, ignore_index=255)
        measure.update(scores, target)
        bootstrap = measure._bootstrap
        assert bootstrap is not None
        assert bootstrap.sums is not None
        assert float(bootstrap.additive.finish(bootstrap.sums.sum(0)[None])) == pytest.approx(
            measure.compute(), abs=1e-6
        )


@pytest.mark.parametrize("rows", [160, 3 * GROUPS])
def test_an_interval_is_as_wide_as_a_bootstrap_row_by_row(rows: int) -> None:
    scores, target = drawn("accuracy", rows)
    measure = metrics.build("accuracy").fresh()
    measure.update(scores, target)
    right = (scores.argmax(1) == target).double().numpy()
    generator = np.random.default_rng(0)
    expected = np.quantile(generator.choice(right, (4000, rows)).mean(1), [0.025, 0.975])
    assert interval(measure.resampled()) == pytest.approx(expected, abs=0.25 * (expected[1] - expected[0]))


def test_the_interval_of_a_mean_draws_the_same_rows_for_all_of_it() -> None:
    scores, target = drawn("accuracy", 400)
    other = scores + torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    measures = [metrics.build("accuracy").fresh() for _ in range(2)]
    for measure, one in zip(measures, (scores, other), strict=True):
        measure.update(one, target)
    right = torch.stack([(one.argmax(1) == target).double() for one in (scores, other)]).mean(0).numpy()
    expected = np.quantile(np.random.default_rng(0).choice(right, (4000, 400)).mean(1), [0.025, 0.975])
    values = [measure.resampled() for measure in measures]
    assert interval_of_mean(values) == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))
    assert interval_of_mean([*values, None]) is None
    assert interval_of_mean([]) is None


def test_where_there_is_no_interval() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    own = metrics.build(MulticlassAccuracy(7))
    own.update(*drawn("accuracy", 20))
    assert own.resampled() is None
    measure = metrics.build("accuracy").fresh()
    assert measure.resampled() is None
    measure.update(torch.full((2, 3), torch.nan), torch.zeros(2).long())
    assert measure.resampled() is None
    many = Bootstrap(ADDITIVE["miou"], None)
    many.update(torch.randn(4, 100), torch.zeros(4).long())
    assert many.resampled() is None
