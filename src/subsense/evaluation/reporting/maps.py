"""One slice of classes for what has no such picture by itself: volumes, and regions that overlap."""

from __future__ import annotations

import torch
from torch import Tensor


def has_regions(target: Tensor) -> bool:
    """Say whether a sample's target is regions that overlap: float (region, H, W) or (region, D, H, W)."""
    return target.is_floating_point() and target.dim() in (3, 4)


def as_map(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Give scores (class, H, W) and classes (H, W) of a sample that has more axes, or regions; others as they are.

    Of a volume it is the slice, across the last axis, with the most that is labelled. A place in several regions shows
    the smallest of them; class 0 is in none.

    >>> whole, core = torch.tensor([[1.0, 1, 1, 0]]), torch.tensor([[0.0, 1, 0, 0]])
    >>> as_map(torch.stack([whole, core]) - 0.5, torch.stack([whole, core]))[1].tolist()
    [[1, 2, 1, 0]]
    """
    if has_regions(target):
        found, target = _smallest(scores > 0), _smallest(target > 0.5)
        scores = torch.nn.functional.one_hot(found, len(scores) + 1).movedim(-1, 0).float()
    if target.dim() == 3 and scores.dim() == 4:
        best = int((target != 0).flatten(0, 1).sum(0).argmax())
        scores, target = scores[..., best], target[..., best]
    return scores, target


def _smallest(regions: Tensor) -> Tensor:
    """Give the number, from 1 on, of the smallest region that each place is in; 0 where it is in none."""
    classes = torch.zeros(regions.shape[1:], dtype=torch.int64, device=regions.device)
    for number in regions.flatten(1).sum(1).argsort(descending=True).tolist():
        classes[regions[number]] = number + 1
    return classes
