"""The field's measures by name, computed by torchmetrics, which is imported when the first one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from subsense.errors import MetricError, closest
from subsense.evaluation.intervals import ADDITIVE, Bootstrap
from subsense.evaluation.measure import Measure, Prepare, Unit

if TYPE_CHECKING:
    from torchmetrics import Metric

    MetricLike = str | Mapping[str, Mapping[str, Any]] | Metric | Measure
    """A name, a name with options, ``{"miou": {"ignore_index": 255}}``, a torchmetrics object, or what `build` made."""

"""Scores and target as the network and the data give them -> as torchmetrics wants them."""


def build(
    metric: MetricLike,
    num_classes: int | None = None,
    *,
    ignore_index: int | None = None,
    higher_is_better: bool | None = None,
) -> Measure:
    """Make a measure from one of the names in `METRICS`, or from a torchmetrics object.

    Args:
        metric: a name; a name with its options, ``{"miou": {"ignore_index": 255}}``; a `torchmetrics.Metric`, of which
            empty copies are used; or a `Measure`, returned as it is.
        num_classes: number of classes; by default the size of axis 1 of the first scores.
        ignore_index: a class index in the target which marks positions that don't count (measures of classes only).
        higher_is_better: the direction of a torchmetrics object that doesn't say it itself.

    Raises:
        MetricError: an unknown name (with the near miss), or an option that the metric does not take.

    >>> measure = build("accuracy")
    >>> measure.update(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([1, 0, 0]))
    >>> round(measure.compute(), 3)
    0.667
    """
    if isinstance(metric, Measure):
        return metric
    if isinstance(metric, str):
        return _build_named(metric, num_classes, ignore_index)
    if isinstance(metric, Mapping):
        return _with_options(metric)
    return _wrap(metric, higher_is_better)


@dataclass(frozen=True)
class _Kind:
    """One named measure: the torchmetrics class, its arguments, and what its numbers mean.

    Without `prepare` it is one of classes: scores (batch, class, ...), target (batch, ...) of indices. `finish` makes
    one number of what torchmetrics computes.
    """

    name: str
    about: str
    path: str
    arguments: Mapping[str, Any]
    prepare: Prepare | None = None
    higher_is_better: bool = True
    unit: Unit = "fraction"
    convention: str = ""
    finish: Callable[[Tensor], float] = float

    def make(self, **more: Any) -> Metric:
        module, name = self.path.split(".")
        make = getattr(import_module(f"torchmetrics.{module}"), name)
        metric = make(**self.arguments, **more, sync_on_compute=False)
        return cast("Metric", metric)


def _values(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten values, in float64, so that long sums stay exact."""
    if scores.numel() != target.numel():
        raise MetricError("expected as many scores as targets")
    return scores.flatten().double(), target.flatten().double()


def _signs(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Turn sentiments into positive or negative; rows with a neutral label (0) don't count."""
    scores, target = _values(scores, target)
    has_sign = target != 0
    return (scores[has_sign] > 0).long(), (target[has_sign] > 0).long()


def _signs_with_zero(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Turn sentiments into negative or not; a neutral label (0) is not negative."""
    scores, target = _values(scores, target)
    return (scores >= 0).long(), (target >= 0).long()


def _steps(limit: int, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Round sentiments to classes: -limit becomes 0, +limit becomes 2 limit, and so does what lies beyond."""
    scores, target = ((values.clamp(-limit, limit).round() + limit).long() for values in _values(scores, target))
    return scores, target


def _labelled_iou(confusion: Tensor) -> float:
    """Average the intersection over union of all classes but the first that occur in labels or predictions."""
    right = confusion.diag().double()
    union = confusion.sum(0) + confusion.sum(1) - right
    counts = (union > 0).index_fill(0, torch.tensor([0], device=union.device), False)
    return float((right[counts] / union[counts]).mean())


_ACCURACY = "classification.MulticlassAccuracy"
_F1 = "classification.MulticlassF1Score"
_ONE_MATRIX = "one confusion matrix for all data"
_OCCURRING = "classes that occur in labels or predictions"
_BY_LABELS = "F1 of each class, weighted by how often the class is the label"
_NEUTRAL = {
    "without": "neutral labels (0) don't count; above 0 is positive",
    "with": "neutral labels (0) count as not negative",
}
_KINDS: dict[str, _Kind] = {
    # of classes
    "accuracy": _Kind("accuracy", "share of rows (or pixels) whose class is right", _ACCURACY, {"average": "micro"}),
    "top-5": _Kind("top-5", "share whose class is among the five best scores", _ACCURACY,
                   {"average": "micro", "top_k": 5}),
    "f1": _Kind("F1", "mean over the classes, each counting alike", _F1, {"average": "macro"},
                convention=f"F1 of each class over all data at once; mean over the {_OCCURRING}"),
    "weighted-f1": _Kind("weighted F1", "mean over the classes, weighted by how often each is the label", _F1,
                         {"average": "weighted"}, convention=_BY_LABELS),
    "miou": _Kind("mIoU", "mean intersection over union of the classes, over all data at once",
                  "classification.MulticlassJaccardIndex", {"average": "macro"},
                  convention=f"{_ONE_MATRIX}; mean over the {_OCCURRING}"),
    "miou-labelled": _Kind("mIoU (labelled)", "the same without the IoU of class 0, where that means no label (MFNet)",
                           "classification.MulticlassConfusionMatrix", {}, finish=_labelled_iou,
                           convention=f"{_ONE_MATRIX}, pixels of class 0 among them; "
                                      f"mean over the other {_OCCURRING}"),
    # of values
    "mae": _Kind("MAE", "mean absolute error", "regression.MeanAbsoluteError", {}, _values, False, "value"),
    "mse": _Kind("MSE", "mean squared error", "regression.MeanSquaredError", {}, _values, False, "value"),
    "rmse": _Kind("RMSE", "root of the mean squared error", "regression.MeanSquaredError", {"squared": False}, _values,
                  False, "value"),
    "correlation": _Kind("correlation", "Pearson's", "regression.PearsonCorrCoef", {}, _values, True, "value",
                         "Pearson's, over all rows at once"),
    # of sentiments, labelled from -3 (very negative) to +3 (very positive)
    "acc-2": _Kind("Acc-2", "sentiment -3..3, negative or positive; neutral labels don't count",
                   "classification.BinaryAccuracy", {}, _signs, convention=_NEUTRAL["without"]),
    "acc-2-with-zero": _Kind("Acc-2 (with zero)", "sentiment -3..3, negative or not; neutral labels are not",
                             "classification.BinaryAccuracy", {}, _signs_with_zero, convention=_NEUTRAL["with"]),
    "f1-2": _Kind("F1-2", "the classes of acc-2, F1 weighted by counts of labels (MulT's code: of outputs)", _F1,
                  {"num_classes": 2, "average": "weighted"}, _signs,
                  convention=f"{_NEUTRAL['without']}; {_BY_LABELS}"),
    "f1-2-with-zero": _Kind("F1-2 (with zero)", "the classes of acc-2-with-zero, F1 weighted by counts of labels", _F1,
                            {"num_classes": 2, "average": "weighted"}, _signs_with_zero,
                            convention=f"{_NEUTRAL['with']}; {_BY_LABELS}"),
    "acc-5": _Kind("Acc-5", "sentiment -3..3, rounded to five classes", _ACCURACY,
                   {"num_classes": 5, "average": "micro"}, partial(_steps, 2),
                   convention="labels and outputs clipped to -2..2 and rounded, halves to even"),
    "acc-7": _Kind("Acc-7", "sentiment -3..3, rounded to seven classes", _ACCURACY,
                   {"num_classes": 7, "average": "micro"}, partial(_steps, 3),
                   convention="labels and outputs clipped to -3..3 and rounded, halves to even"),
}  # fmt: skip
_REGIONS: dict[str, dict[str, Any]] = {
    "dice": {"name": "Dice", "higher_is_better": True, "unit": "fraction",
             "convention": "mean over cases and regions (all classes but the first); 1 where a region is in neither"},
    "hd95": {"name": "HD95", "higher_is_better": False, "unit": "value",
             "convention": "voxels, mean over cases and regions; 0 where a region is in neither, the volume's diagonal "
                           "where it is in one alone"},
}  # fmt: skip
_ALIASES = {
    "top-1": "accuracy",
    "top1": "accuracy",
    "pixel-accuracy": "accuracy",
    "top5": "top-5",
    "mean-f1": "f1",
    "macro-f1": "f1",
    "pearson": "correlation",
}
METRICS: dict[str, str] = (
    {name: kind.about for name, kind in _KINDS.items()}
    | {
        "dice": "overlap of segmented regions, or of all classes but the first, case by case",
        "hd95": "95 % Hausdorff distance of the same, in voxels (MONAI)",
    }
    | {alias: f"another name of {name}" for alias, name in _ALIASES.items()}
)
"""Every name that `build` knows, in lower case (upper case is accepted too), and what it measures."""


def _with_options(metric: Mapping[str, Mapping[str, Any]]) -> Measure:
    """Make ``{name: options}``."""
    known = ("num_classes", "ignore_index")
    options = next(iter(metric.values()), None)
    if len(metric) != 1 or not isinstance(options, Mapping):
        raise MetricError(
            f'expected one metric with its options, {{"miou": {{"ignore_index": 255}}}}, but found {metric}'
        )
    for option in options:
        if option not in known:
            raise MetricError(f"unknown option {option!r}; known: {', '.join(known)}.{closest(str(option), known)}")
    return _build_named(next(iter(metric)), options.get("num_classes"), options.get("ignore_index"))


def _build_named(name: str, num_classes: int | None, ignore_index: int | None) -> Measure:
    key = _ALIASES.get(name.lower(), name.lower())
    if key in _REGIONS:
        return _of_regions(key, num_classes, ignore_index)
    kind = _KINDS.get(key)
    if kind is None:
        raise MetricError(f"unknown metric {name!r}; known: {', '.join(METRICS)}.{closest(key, METRICS)}")
    parts = [kind.convention] if kind.convention else []
    if ignore_index is not None:
        parts.append(f"labels of {ignore_index} don't count")
    resampled = partial(Bootstrap, ADDITIVE[key], ignore_index)
    measure = partial(Measure, kind.name, resampled=resampled, higher_is_better=kind.higher_is_better, unit=kind.unit,
                      convention="; ".join(parts), finish=kind.finish)  # fmt: skip
    if kind.prepare is None:
        make = partial(_make_of_classes, kind, num_classes, ignore_index)
        return measure(make=make, prepare=partial(_classes, key, ignore_index), of_classes=True)
    if num_classes is not None or ignore_index is not None:
        raise MetricError(f"metric {name!r} is not one of classes: it takes neither num_classes nor ignore_index")
    return measure(make=partial(_make_of_values, kind), prepare=kind.prepare)


def _of_regions(key: str, num_classes: int | None, ignore_index: int | None) -> Measure:
    from subsense.evaluation import regions

    if num_classes is not None:
        raise MetricError(f"metric {key!r} takes no num_classes: it counts the regions of the target")
    measure = {"dice": regions.dice, "hd95": regions.hausdorff95}[key]
    prepare = partial(regions.as_regions, ignore_index=ignore_index)
    return Measure(make=lambda _: regions.MeanOverRegions(measure), prepare=prepare, **_REGIONS[key])


def _make_of_classes(kind: _Kind, asked: int | None, ignore_index: int | None, found: int) -> Metric:
    least = kind.arguments.get("top_k", 1)
    if found < least or (asked is not None and found != asked):
        expected = f"at least {least}" if asked is None else asked
        raise MetricError(f"metric {kind.name!r}: expected {expected} classes, but found scores for {found}")
    return kind.make(num_classes=found, ignore_index=ignore_index, validate_args=False)


def _make_of_values(kind: _Kind, _: int) -> Metric:
    return kind.make().set_dtype(torch.float64)


def _classes(name: str, ignore_index: int | None, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Check in one pass what torchmetrics would check by sorting the whole target."""
    if scores.ndim < 2 or target.shape != scores.shape[:1] + scores.shape[2:] or target.is_floating_point():
        raise MetricError("expected scores (batch, class, ...) and class indices (batch, ...)")
    counted = target if ignore_index is None else target[target != ignore_index]
    if counted.numel():
        low, high, last = int(counted.min()), int(counted.max()), scores.shape[1] - 1
        if low < 0 or high > last:
            raise MetricError(
                f"expected class indices 0 to {last}, but they go from {low} to {high}; where one of them marks what "
                f'doesn\'t count, say so: metric={{"{name}": {{"ignore_index": {high if high > last else low}}}}}'
            )
    return scores, target.long()


def _wrap(metric: Metric, higher_is_better: bool | None) -> Measure:
    from torchmetrics import Metric

    name = type(metric).__name__
    if not isinstance(metric, Metric):
        raise MetricError(
            f"expected metric to be a torchmetrics.Metric or one of {', '.join(METRICS)}, but found {name}"
        )
    direction = metric.higher_is_better if higher_is_better is None else higher_is_better
    if direction is None:
        raise MetricError(
            f"{name} doesn't say whether more is better: `metrics.build(metric, higher_is_better=...)` does"
        )
    convention = f"as torchmetrics' {name} counts, made by the caller"
    make = partial(_copy, metric)
    return Measure(name, make, _as_given, higher_is_better=direction, unit="value", convention=convention)


def _copy(metric: Metric, _: int) -> Metric:
    copy = metric.clone()
    copy.reset()
    return copy


def _as_given(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return scores, target
