"""SegFormer's head: every stage's features made equally wide and large by a linear layer, then classified.

Paper: E. Xie et al., SegFormer, NeurIPS 2021 (arXiv 2105.15203).
Original: https://github.com/NVlabs/SegFormer (NVIDIA, no commercial use), in the form that
https://github.com/sithu31296/semantic-segmentation (MIT) gave it and CMNeXt uses.
Code: written for subsense, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.zoo.mix_transformer import to_map, to_tokens


class SegFormerHead(nn.Module):
    """Score the classes of each pixel from four stages.

    Args:
        widths: channels of the stages' features.
        width: channels that all of them get.
        num_classes: number of classes.
        dropout: how often a channel is dropped in training.

    >>> features = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 6, 4, 4)]
    >>> SegFormerHead((4, 6), width=8, num_classes=3)(features).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, widths: Sequence[int], width: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.names = [f"linear_c{stage}" for stage in range(1, len(widths) + 1)]
        for name, channels in zip(self.names, widths, strict=True):
            self.add_module(name, _Widened(channels, width))
        self.linear_fuse = _Merged(len(widths) * width, width)
        self.linear_pred = nn.Conv2d(width, num_classes, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Score: (batch, channels, H, W) for each stage, the largest first -> (batch, num_classes, H, W)."""
        largest = features[0].shape[2:]
        widened = [self.get_submodule(name)(map_) for name, map_ in zip(self.names, features, strict=True)]
        resized = [widened[0], *(F.interpolate(one, largest, mode="bilinear") for one in widened[1:])]
        # The deepest stage's channels come first, as in the published weights.
        merged = self.linear_fuse(torch.cat(resized[::-1], dim=1))
        scores: Tensor = self.linear_pred(self.dropout(merged))
        return scores


class _Widened(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, width)

    def forward(self, image: Tensor) -> Tensor:
        return to_map(self.proj(to_tokens(image)), (image.shape[2], image.shape[3]))


class _Merged(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(image)))
