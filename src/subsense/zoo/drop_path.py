"""Stochastic depth: a residual branch that some rows of a batch skip in training.

Paper: G. Huang et al., Deep Networks with Stochastic Depth, ECCV 2016 (arXiv 1603.09382).
Code: written for subsense, Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Set whole rows to zero in training, each with probability `rate`, and scale up the others to keep the mean.

    >>> DropPath(0.5).eval()(torch.ones(2, 3)).sum()
    tensor(6.)
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop rows: (batch, ...) -> (batch, ...)."""
        if not self.training or not self.rate:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device, dtype=x.dtype) >= self.rate
        return x * kept / (1 - self.rate)
