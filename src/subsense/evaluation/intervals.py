"""Bootstrap intervals: what a measure would be on other rows of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = 512
"""More rows than these share sums, row by row in turn: a bootstrap over groups of rows drawn alike."""
RESAMPLES = 1000
MOST_CLASSES = 64
"""Of more classes no matrix is kept for each group."""
LEVEL = 0.95


@dataclass(frozen=True)
class Additive:
    """Say how a measure comes of sums over rows.

    Attributes:
        parts: prepared scores and target -> what each row adds, float64 (row, number); None where that isn't kept.
        finish: sums (resample, number) -> the measure (resample,).
    """

    parts: Callable[[Tensor, Tensor, int | None], Tensor | None]
    finish: Callable[[Tensor], Tensor]


class Bootstrap:
    """Add rows up in groups, and resample the groups."""

    def __init__(self, additive: Additive, ignore_index: int | None) -> None:
        self.additive, self.ignore_index = additive, ignore_index
        self.sums: Tensor | None = None
        self.num_rows = 0
        self.is_kept = True

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Take in a batch."""
        found = self.additive.parts(scores, target, self.ignore_index) if self.is_kept else None
        if found is None:
            self.is_kept = False
            return
        if self.sums is None:
            self.sums = torch.zeros(GROUPS, found.shape[1], dtype=torch.float64)
        places = (torch.arange(len(found)) + self.num_rows) % GROUPS
        self.sums.index_add_(0, places, found.cpu())
        self.num_rows += len(found)

    def resampled(self) -> Tensor | None:
        """Give the measure on `RESAMPLES` draws of the rows; None of fewer than two rows, or of what isn't kept.

        As many rows are drawn alike every time, so that measures on the same rows can be put together draw by draw.
        """
        if self.sums is None or not self.is_kept or self.num_rows < 2:
            return None
        groups = self.sums[: self.num_rows]
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(groups), (RESAMPLES, len(groups)), generator=generator)
        weights = torch.zeros(RESAMPLES, len(groups), dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
        return self.additive.finish(weights @ groups)


def interval(values: Tensor | None) -> tuple[float, float] | None:
    """Give the percentile interval of `LEVEL` of resampled values; None where there are none.

    >>> interval(torch.arange(1001.0))
    (25.0, 975.0)
    """
    finite = torch.empty(0) if values is None else values[values.isfinite()]
    if not len(finite):
        return None
    low, high = torch.quantile(finite, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=finite.dtype))
    return float(low), float(high)


def interval_of_mean(values: Sequence[Tensor | None]) -> tuple[float, float] | None:
    """Give the interval of the mean of measures on the same rows; None where one of them has no values, or for none."""
    known = [one for one in values if one is not None]
    return interval(torch.stack(known).mean(0)) if known and len(known) == len(values) else None


def _right(scores: Tensor, target: Tensor, ignore_index: int | None, best: int = 1) -> Tensor:
    """Count what is right and what counts, for each row."""
    if scores.dim() == target.dim():  # classes already
        hits = scores == target
    else:
        hits = (scores.topk(min(best, scores.shape[1]), 1).indices == target[:, None]).any(1)
    counted = torch.ones_like(hits) if ignore_index is None else target != ignore_index
    return torch.stack([one.reshape(len(target), -1).double().sum(1) for one in (hits & counted, counted)], 1)


def _five_best(scores: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    return _right(scores, target, ignore_index, best=5)


def _matrix(scores: Tensor, target: Tensor, ignore_index: int | None) -> Tensor | None:
    """Count labels and predictions: (row, label x prediction)."""
    count = 2 if scores.dim() == target.dim() else scores.shape[1]
    if count > MOST_CLASSES:
        return None
    said = (scores if scores.dim() == target.dim() else scores.argmax(1)).reshape(len(target), -1)
    wanted = target.reshape(len(target), -1)
    counted = torch.ones_like(said, dtype=torch.bool) if ignore_index is None else wanted != ignore_index
    rows = torch.arange(len(target), device=target.device)[:, None].expand_as(wanted)
    places = ((rows * count + wanted) * count + said)[counted]
    return torch.bincount(places, minlength=len(target) * count * count).view(len(target), -1).double()


def _square(sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give what is right, labels and predictions of each class: (resample, class)."""
    count = round(sums.shape[1] ** 0.5)
    matrix = sums.view(-1, count, count)
    return matrix.diagonal(dim1=1, dim2=2), matrix.sum(2), matrix.sum(1)


def _share(sums: Tensor) -> Tensor:
    return sums[:, 0] / sums[:, 1]


def _f1(sums: Tensor) -> Tensor:
    right, labels, said = _square(sums)
    return _mean(2 * right / (labels + said), labels + said > 0)


def _weighted_f1(sums: Tensor) -> Tensor:
    right, labels, said = _square(sums)
    return ((2 * right / (labels + said)).nan_to_num(0) * labels).sum(1) / labels.sum(1)


def _iou(sums: Tensor) -> Tensor:
    right, labels, said = _square(sums)
    union = labels + said - right
    return _mean(right / union, union > 0)


def _labelled_iou(sums: Tensor) -> Tensor:
    right, labels, said = _square(sums)
    union = (labels + said - right)[:, 1:]
    return _mean(right[:, 1:] / union, union > 0)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, values, 0).sum(1) / counted.sum(1)


def _errors(scores: Tensor, target: Tensor, _: int | None) -> Tensor:
    error = (scores - target).abs()
    return torch.stack([error, error.square(), torch.ones_like(error)], 1)


def _moments(scores: Tensor, target: Tensor, _: int | None) -> Tensor:
    ones = torch.ones_like(scores)
    return torch.stack([ones, scores, target, scores.square(), target.square(), scores * target], 1)


def _pearson(sums: Tensor) -> Tensor:
    x, y, xx, yy, xy = (sums[:, 1:] / sums[:, :1]).unbind(1)
    return (xy - x * y) / ((xx - x.square()) * (yy - y.square())).sqrt()


ADDITIVE: dict[str, Additive] = {
    "accuracy": Additive(_right, _share),
    "top-5": Additive(_five_best, _share),
    "f1": Additive(_matrix, _f1),
    "weighted-f1": Additive(_matrix, _weighted_f1),
    "miou": Additive(_matrix, _iou),
    "miou-labelled": Additive(_matrix, _labelled_iou),
    "mae": Additive(_errors, lambda sums: sums[:, 0] / sums[:, 2]),
    "mse": Additive(_errors, lambda sums: sums[:, 1] / sums[:, 2]),
    "rmse": Additive(_errors, lambda sums: (sums[:, 1] / sums[:, 2]).sqrt()),
    "correlation": Additive(_moments, _pearson),
    "acc-2": Additive(_right, _share),
    "acc-2-with-zero": Additive(_right, _share),
    "f1-2": Additive(_matrix, _weighted_f1),
    "f1-2-with-zero": Additive(_matrix, _weighted_f1),
    "acc-5": Additive(_right, _share),
    "acc-7": Additive(_right, _share),
}
"""Measures by name; a metric of the caller's own has no interval."""
