"""Measures against scikit-learn and numpy, in batches, as they are used."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn import metrics as sk

from subsense.errors import MetricError
from subsense.evaluation import metrics
from subsense.evaluation.metrics import METRICS
from subsense.model.scores import select_scores

ROWS, CLASSES = 97, 7


def measured(name, scores, target, **options):
    measure = metrics.build(name, **options)
    for part in zip(scores.split(20), target.split(20), strict=True):
        measure.update(*part)
    return measure.compute()


@pytest.fixture
def classified():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    scores = torch.randn(ROWS, CLASSES, generator=generator) + 1.5 * torch.eye(CLASSES)[target]
    return scores, target


@pytest.fixture
def sentiments():
    generator = torch.Generator().manual_seed(1)
    target = (torch.randn(ROWS, generator=generator) * 1.7).clamp(-3, 3)
    target[:9] = 0
    return target[:, None] + torch.randn(ROWS, 1, generator=generator), target


def test_accuracy(classified):
    scores, target = classified
    assert measured("accuracy", scores, target) == pytest.approx(sk.accuracy_score(target, scores.argmax(1)))
    assert measured("top-1", scores, target) == measured("accuracy", scores, target)


def test_top_5(classified):
    scores, target = classified
    expected = sk.top_k_accuracy_score(target, scores, k=5)
    assert measured("top-5", scores, target) == pytest.approx(expected)
    assert measured("top5", scores, target) == pytest.approx(expected)


def test_f1_is_macro_or_weighted(classified):
    scores, target = classified
    for average, names in (("macro", ("f1", "mean-f1", "macro-f1")), ("weighted", ("weighted-f1",))):
        expected = sk.f1_score(target, scores.argmax(1), average=average)
        for name in names:
            assert measured(name, scores, target) == pytest.approx(expected)


def test_miou_is_of_one_confusion_matrix_for_all_data():
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(0, 4, (50, 6, 5), generator=generator)
    target[:25] = target[:25].clamp(max=1)  # images differ in their classes, so that a mean per image would differ
    scores = torch.randn(50, 5, 6, 5, generator=generator)
    expected = sk.jaccard_score(target.flatten(), scores.argmax(1).flatten(), average="macro")
    assert measured("mIoU", scores, target) == pytest.approx(expected)


@pytest.mark.parametrize("ignored", [255, -1, 0])
def test_ignored_pixels_do_not_count(ignored):
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(1, 4, (50, 6, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = ignored
    scores = torch.randn(50, 4, 6, 5, generator=generator)
    scores[:, 0] -= 100 * (ignored == 0)  # an ignored class is not predicted either
    counts = target != ignored
    expected = sk.jaccard_score(target[counts], scores.argmax(1)[counts], average="macro")
    assert measured("miou", scores, target, ignore_index=ignored) == pytest.approx(expected)


def images(classes=5):
    """Make 50 label pictures in which a class of the network never occurs, and what a network says of them."""
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(0, classes - 1, (50, 6, 5), generator=generator)
    scores = torch.randn(50, classes, 6, 5, generator=generator)
    scores[:, -1] -= 100
    return scores + 2 * torch.nn.functional.one_hot(target, classes).movedim(-1, 1), target


def test_miou_with_and_without_what_has_no_label():
    scores, target = images()
    said = scores.argmax(1).flatten()
    of_classes = sk.jaccard_score(target.flatten(), said, average=None, labels=range(4))
    assert measured("miou", scores, target) == pytest.approx(of_classes.mean())
    assert measured("miou-labelled", scores, target) == pytest.approx(of_classes[1:].mean())
    assert measured("miou-labelled", scores, target) != pytest.approx(measured("miou", scores, target, ignore_index=0))


def test_miou_of_labelled_classes_leaves_ignored_pixels_out():
    scores, target = images()
    target[:, 0] = 255
    counts = target != 255
    expected = sk.jaccard_score(target[counts], scores.argmax(1)[counts], average=None, labels=range(1, 4)).mean()
    assert measured("miou-labelled", scores, target, ignore_index=255) == pytest.approx(expected)


def test_pixels_are_counted_like_rows():
    scores, target = images()
    expected = sk.accuracy_score(target.flatten(), scores.argmax(1).flatten())
    assert measured("pixel-accuracy", scores, target) == pytest.approx(expected)
    assert measured("f1", scores, target) == pytest.approx(
        sk.f1_score(target.flatten(), scores.argmax(1).flatten(), average="macro")
    )


def test_values(sentiments):
    scores, target = sentiments
    assert measured("mae", scores, target) == pytest.approx(sk.mean_absolute_error(target, scores[:, 0]))
    assert measured("mse", scores, target) == pytest.approx(sk.mean_squared_error(target, scores[:, 0]))
    assert measured("rmse", scores, target) == pytest.approx(sk.root_mean_squared_error(target, scores[:, 0]))
    correlation = pearsonr(target.double(), scores[:, 0].double()).statistic
    assert measured("correlation", scores, target) == pytest.approx(correlation)
    assert measured("pearson", scores, target) == pytest.approx(correlation)


def test_sentiments(sentiments):
    scores, target = sentiments
    counts = target != 0
    without = target[counts] > 0, scores[counts, 0] > 0
    with_zero = target >= 0, scores[:, 0] >= 0
    for ending, (label, said) in (("", without), ("-with-zero", with_zero)):
        assert measured(f"acc-2{ending}", scores, target) == pytest.approx(sk.accuracy_score(label, said))
        assert measured(f"f1-2{ending}", scores, target) == pytest.approx(sk.f1_score(label, said, average="weighted"))
    for name, limit in (("acc-7", 3), ("acc-5", 2)):
        steps = [np.round(np.clip(values.numpy(), -limit, limit)) for values in (target, scores[:, 0])]
        assert measured(name, scores, target) == pytest.approx(sk.accuracy_score(*steps))


TABLE = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])
LABELS = torch.tensor([0, 1, 1, 2, 2])  # the table says 0, 1, 0, 2, 1
OUTPUTS = torch.tensor([2.6, -0.5, 0.4, -3.4, -0.0])
SENTIMENTS = torch.tensor([3.0, -1.0, 0.0, -3.0, 0.0])


@pytest.mark.parametrize(
    ("name", "scores", "target", "expected"),
    [
        ("accuracy", TABLE, LABELS, 3 / 5),
        ("f1", TABLE, LABELS, (2 / 3 + 1 / 2 + 2 / 3) / 3),
        ("weighted-f1", TABLE, LABELS, (1 * 2 / 3 + 2 * 1 / 2 + 2 * 2 / 3) / 5),
        ("miou", TABLE, LABELS, (1 / 2 + 1 / 3 + 1 / 2) / 3),
        ("miou-labelled", TABLE, LABELS, (1 / 3 + 1 / 2) / 2),
        ("top-5", torch.arange(7.0, 0, -1).expand(2, 7), torch.tensor([4, 5]), 1 / 2),  # fifth and sixth best
        ("mae", OUTPUTS, SENTIMENTS, (0.4 + 0.5 + 0.4 + 0.4 + 0.0) / 5),
        ("mse", torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), 5 / 2),
        ("rmse", torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), math.sqrt(5 / 2)),
        ("correlation", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]), 1 / 2),
        ("acc-2", OUTPUTS, SENTIMENTS, 1.0),  # of three
        ("acc-2-with-zero", torch.tensor([1.0, -0.1, 0.0, -2.0]), torch.tensor([2.0, 0.0, 0.0, 1.0]), 1 / 2),
        ("f1-2", torch.tensor([1.0, 1.0, -1.0, 5.0]), torch.tensor([2.0, -1.0, -1.0, 0.0]), 2 / 3),
        ("f1-2-with-zero", torch.tensor([1.0, -1.0, -1.0]), torch.tensor([0.0, 0.0, -2.0]), 2 / 3),
        ("acc-5", OUTPUTS, SENTIMENTS, 4 / 5),  # 2 2, 0 -1, 0 0, -2 -2, 0 0
        ("acc-7", torch.tensor([2.6, -0.5, 0.5, -3.4, 1.5]), torch.tensor([3.0, 0.0, 1.0, -3.0, 2.0]), 4 / 5),
    ],
)
def test_by_hand(name, scores, target, expected):
    assert measured(name, scores, target) == pytest.approx(expected)


def test_every_name_has_a_case_by_hand():
    [cases] = [mark.args[1] for mark in test_by_hand.pytestmark]
    regions = {"dice", "hd95"}  # tests/integrations/test_monai.py
    named = {name for name, about in METRICS.items() if "another name" not in about}
    assert {name for name, *_ in cases} == named - regions


def test_the_convention_is_told_where_the_name_leaves_it_open():
    assert metrics.build("accuracy").convention == ""
    assert metrics.build("miou", ignore_index=255).fresh().convention == (
        "one confusion matrix for all data; mean over the classes that occur in labels or predictions; "
        "labels of 255 don't count"
    )
    assert "pixels of class 0 among them" in metrics.build("miou-labelled").convention
    assert "neutral labels (0) don't count" in metrics.build("acc-2").convention
    assert "neutral labels (0) count as not negative" in metrics.build("f1-2-with-zero").convention


def test_long_sums_are_exact():
    target = torch.full((4096,), 1e-3)
    target[0] = 1e7
    assert measured("mae", torch.zeros_like(target), target) == pytest.approx((1e7 + 4.095) / 4096, rel=1e-12)


def test_an_undefined_correlation_is_nan_without_a_warning():
    assert math.isnan(measured("correlation", torch.zeros(5), torch.arange(5.0)))


def test_only_neutral_labels_give_nan():
    assert math.isnan(measured("acc-2", torch.ones(5), torch.zeros(5)))


def test_fresh_and_reset_are_empty_and_nothing_leaks(classified):
    measure = metrics.build("accuracy")
    measure.update(*classified)
    whole, fresh = measure.compute(), measure.fresh()
    with pytest.raises(MetricError, match="nothing to compute"):
        fresh.compute()
    fresh.update(classified[0][:1], classified[0][:1].argmax(1))
    assert (fresh.compute(), measure.compute()) == (1.0, whole)
    measure.reset()
    with pytest.raises(MetricError, match="nothing to compute"):
        measure.compute()


def test_a_torchmetrics_object_is_copied(classified):
    from torchmetrics.classification import MulticlassAccuracy

    mine = MulticlassAccuracy(num_classes=CLASSES, average="micro")
    mine.update(torch.eye(CLASSES), torch.arange(CLASSES).flip(0))
    before = mine.compute()
    assert measured(mine, *classified) == pytest.approx(measured("accuracy", *classified))
    assert mine.compute() == before
    assert metrics.build(mine).higher_is_better


def test_a_torchmetrics_object_without_direction_needs_one():
    from torchmetrics import SumMetric

    with pytest.raises(MetricError, match="higher_is_better"):
        metrics.build(SumMetric())
    assert metrics.build(SumMetric(), higher_is_better=False).higher_is_better is False


def test_a_measure_is_returned_as_it_is():
    measure = metrics.build("miou", ignore_index=255)
    assert metrics.build(measure) is measure


def test_direction_and_unit():
    assert [metrics.build(name).higher_is_better for name in ("miou", "mae", "correlation")] == [True, False, True]
    assert [metrics.build(name).unit for name in ("miou", "mae", "correlation")] == ["fraction", "value", "value"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mIuO", {}, "unknown metric 'mIuO'.*Did you mean 'miou'"),
        (3, {}, "a torchmetrics.Metric or one of accuracy.*found int"),
        ("mae", {"num_classes": 3}, "neither num_classes nor ignore_index"),
    ],
)
def test_what_cannot_be_built(name, options, message):
    with pytest.raises(MetricError, match=message):
        metrics.build(name, **options)


@pytest.mark.parametrize(
    ("name", "scores", "target", "message"),
    [
        ("accuracy", torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "indices 0 to 2, but they go from 0 to 3"),
        ("miou", torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255), r'metric=\{"miou": \{"ignore_index": 255\}\}'),
        ("accuracy", torch.zeros(4, 3), torch.zeros(5, dtype=torch.long), r"found scores \(4, 3\) and target \(5,\)"),
        ("accuracy", torch.zeros(4, 3), torch.zeros(4), "class indices.*float32"),
        ("top-5", torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), "at least 5 classes, but found scores for 3"),
        ("mae", torch.zeros(4, 3), torch.zeros(4), "as many scores as targets"),
        ("mae", {"logits": 1}, torch.zeros(4), "to be tensors, but found dict and Tensor"),
    ],
)
def test_what_does_not_fit(name, scores, target, message):
    with pytest.raises(MetricError, match=message):
        metrics.build(name).update(scores, target)


def test_another_number_of_classes_than_declared_is_refused():
    with pytest.raises(MetricError, match="expected 4 classes, but found scores for 3"):
        metrics.build("accuracy", 4).update(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_scores_are_found_in_common_outputs():
    scores = torch.ones(2)
    assert select_scores(scores) is scores
    assert select_scores(type("Output", (), {"logits": scores})()) is scores
    with pytest.raises(MetricError, match=r"output is a tuple.*select=lambda"):
        select_scores((scores,))


def test_torchmetrics_is_imported_only_when_a_measure_is_used():
    code = "import sys, subsense.evaluation.metrics, subsense.evaluation.results; print('torchmetrics' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_name_with_options_is_what_the_message_advises() -> None:
    scores, target = torch.randn(4, 3, 8, 8), torch.randint(3, (4, 8, 8)).index_fill(1, torch.tensor([2]), 255)
    found = []
    for measure in (metrics.build({"miou": {"ignore_index": 255}}), metrics.build("miou", ignore_index=255)):
        measure.update(scores, target)
        found.append(measure.compute())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"miou": {"ignore": 255}}, r"unknown option 'ignore'; known: num_classes, ignore_index"),
        ({"miou": {}, "f1": {}}, "expected one metric with its options"),
        ({"miou": 255}, "expected one metric with its options"),
        ({"muou": {}}, "Did you mean 'miou'"),
    ],
)
def test_options_that_cannot_be_are_refused(metric: dict[str, Any], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        metrics.build(metric)
