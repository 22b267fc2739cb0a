"""Measures of segmented volumes, by case and region: Dice, and the Hausdorff distance without its largest 5 %."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from subsense.errors import MetricError

ByRegion = Callable[[Tensor, Tensor], Tensor]
"""(prediction, target), bool (case, region, ...) -> a number for each case and region."""


class MeanOverRegions(Metric):
    """Average a number over all cases and regions, each counting alike.

    Args:
        measure: gives the numbers.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, measure: ByRegion, **options: Any) -> None:
        super().__init__(**options)
        self.measure = measure
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in cases, bool (case, region, ...)."""
        numbers = self.measure(prediction, target)
        self.total = self.total + numbers.double().sum().to(self.total.device)
        self.count = self.count + numbers.numel()

    def compute(self) -> Tensor:
        """Give the mean."""
        return self.total / self.count


def dice(prediction: Tensor, target: Tensor) -> Tensor:
    """Give the Dice coefficient of each case and region, (case, region), 1 where both are empty, as BraTS counts.

    >>> empty, one = torch.zeros(1, 1, 4, dtype=torch.bool), torch.tensor([[[True, True, False, False]]])
    >>> [float(dice(*pair)) for pair in ((one, one), (one, empty), (empty, one), (empty, empty))]
    [1.0, 0.0, 0.0, 1.0]
    """
    both = (prediction & target).flatten(2).sum(2).double()
    sizes = (prediction.flatten(2).sum(2) + target.flatten(2).sum(2)).double()
    return torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0)


def hausdorff95(prediction: Tensor, target: Tensor) -> Tensor:
    """Give the 95 % Hausdorff distance of each case and region in voxels, (case, region), by MONAI.

    As BraTS counts what MONAI leaves open (NaN): 0 where both are empty, and the volume's diagonal where one is, which
    is 373.13 for the challenge's volumes. What MONAI's own mean leaves out, a tumour that was missed, counts here.

    Raises:
        MetricError: MONAI is not installed.
    """
    try:
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    except ImportError as error:
        raise MetricError("hd95 needs more packages: pip install 'subsense[monai]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every empty region; they are counted here
        found = compute_hausdorff_distance(prediction.float(), target.float(), include_background=True, percentile=95)
    empty = [~one.flatten(2).any(2) for one in (prediction, target)]
    diagonal = float(torch.tensor(target.shape[2:]).double().norm())
    found = torch.where(empty[0] ^ empty[1], diagonal, found.to(empty[0].device).double())
    return torch.where(empty[0] & empty[1], 0.0, found)


def as_regions(scores: Tensor, target: Tensor, ignore_index: int | None = None) -> tuple[Tensor, Tensor]:
    """Give what was found and what was wanted as regions, bool (case, region, ...).

    Args:
        scores: (case, region, ...), above 0 is inside; or of classes, of which the best counts.
        target: of regions, floats (case, region, ...), 1 inside; or class indices (case, ...), of which all but 0 are
            regions.
        ignore_index: the class index of places that don't count.
    """
    if target.is_floating_point() or target.dtype == torch.bool:
        if scores.shape != target.shape or scores.dim() < 3:
            raise MetricError("expected scores and target of regions, both (case, region, ...)")
        return scores > 0, target > 0.5
    if scores.dim() < 3 or target.shape != scores.shape[:1] + scores.shape[2:]:
        raise MetricError("expected scores (case, class, ...) and class indices (case, ...)")
    counts = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    classes = torch.arange(1, scores.shape[1], device=target.device).view(1, -1, *[1] * (target.dim() - 1))
    found, wanted = scores.argmax(1)[:, None] == classes, target[:, None] == classes
    return found & counts[:, None], wanted & counts[:, None]
