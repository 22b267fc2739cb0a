"""Cross-entropy over what the network finds hard: online hard example mining (OHEM).

Paper: A. Shrivastava, A. Gupta, R. Girshick, Training Region-based Object Detectors with Online Hard Example Mining,
CVPR 2016 (arXiv 1604.03540); for pixels as in CMNeXt's training on MCubeS (https://github.com/jamycheung/DELIVER).
Code: written for subsense, Apache-2.0.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from subsense.errors import TrainingError


class HardCrossEntropy(nn.Module):
    """Average the cross-entropy over the hard pixels (or samples) alone.

    Hard is what gets less than `threshold` for its own class; where that is less than `least` of all, the hardest
    `least` are taken.

    Args:
        threshold: probability, above 0 and at most 1.
        ignore_index: target that doesn't count.
        least: share of what counts, from 0 to 1.

    Raises:
        TrainingError: a number out of its range.

    >>> import torch
    >>> scores = torch.tensor([[5.0, -5.0], [0.1, 0.0]])
    >>> HardCrossEntropy()(scores, torch.tensor([0, 0]))  # the first is sure and right
    tensor(0.6444)
    """

    def __init__(self, threshold: float = 0.7, ignore_index: int = -100, least: float = 1 / 16) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise TrainingError(f"threshold: expected a number above 0, at most 1, but found {threshold!r}")
        if not 0 <= least <= 1:
            raise TrainingError(f"least: expected a number from 0 to 1, but found {least!r}")
        self.threshold, self.ignore_index, self.least = threshold, ignore_index, least

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        """Give the loss: (batch, class, ...) and int64 (batch, ...) -> (). Zero where nothing counts."""
        losses = F.cross_entropy(scores, target, ignore_index=self.ignore_index, reduction="none")
        counted = losses[target != self.ignore_index]
        if not counted.numel():
            return losses.sum()
        hard = counted[counted > -math.log(self.threshold)]
        least = max(1, int(counted.numel() * self.least))
        return (hard if hard.numel() >= least else counted.topk(least).values).mean()
