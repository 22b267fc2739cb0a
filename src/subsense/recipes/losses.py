"""The losses that a recipe can name."""

from __future__ import annotations

import torch
from torch.nn import CrossEntropyLoss


def cross_entropy(
    weight: list[float] | None = None, ignore_index: int = -100, label_smoothing: float = 0.0
) -> CrossEntropyLoss:
    """Make the cross-entropy loss; `weight` holds one number for each class."""
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float32)
    return CrossEntropyLoss(weights, ignore_index=ignore_index, label_smoothing=label_smoothing)


LOSSES = {
    "cross_entropy": "subsense.recipes.losses:cross_entropy",
    "mse": "torch.nn:MSELoss",
    "l1": "torch.nn:L1Loss",
    "distill": "subsense.training:Distill",
}
