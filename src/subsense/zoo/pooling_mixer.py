"""PPX, CMNeXt's parallel pooling mixer: a block of convolutions and poolings for the supplementary modalities.

Paper: J. Zhang et al., Delivering Arbitrary-Modal Semantic Segmentation, CVPR 2023 (arXiv 2303.01480).
Original: https://github.com/jamycheung/DELIVER, Apache-2.0.
Code: written for subsense, Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.zoo.drop_path import DropPath
from subsense.zoo.mix_transformer import Depthwise

POOLS = (3, 7, 11)
EXPANSIONS = (8, 8, 4, 4)
"""Hidden over outer width of the MLP, in the four stages."""


class PoolingAttention(nn.Module):
    """Weigh a map by what its surroundings of several sizes look like."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.conv4 = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Weigh: (batch, width, H, W) -> the same shape."""
        local = self.conv0(image)
        pooled = [F.avg_pool2d(local, pool, 1, pool // 2, count_include_pad=False) for pool in POOLS]
        weights = torch.sigmoid(self.conv4(local + sum(pooled)))
        return weights * image + image


class ConvolutionalMLP(nn.Module):
    """Be SegFormer's mixing MLP on maps: 1 x 1 convolutions in place of linear layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, kernel_size=1)
        self.dwconv = Depthwise(hidden)
        self.fc2 = nn.Conv2d(hidden, width, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Transform: (batch, width, H, W) -> the same shape."""
        transformed: Tensor = self.fc2(F.gelu(self.dwconv(self.fc1(image))))
        return transformed


class PoolingMixer(nn.Module):
    """Mix over space by pooling, then over channels by an MLP beside a gate from each channel's mean.

    Args:
        width: channels.
        stage: which of the four, from 0.
        drop_path: how often a row skips a branch in training.
    """

    def __init__(self, width: int, stage: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.attn = PoolingAttention(width)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = ConvolutionalMLP(width, EXPANSIONS[stage] * width)
        self.layer_scale_1 = nn.Parameter(torch.full((width,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((width,), 1e-2))
        self.c_nets = nn.Sequential(nn.Conv1d(1, 1, kernel_size=3, padding=1, bias=False), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        """Mix: (batch, width, H, W) -> the same shape."""
        scale_1, scale_2 = self.layer_scale_1[:, None, None], self.layer_scale_2[:, None, None]
        image = image + self.drop_path(scale_1 * self.attn(self.norm1(image)))
        mixed: Tensor = self._gate(image) * image + self.drop_path(scale_2 * self.mlp(self.norm2(image)))
        return mixed

    def _gate(self, image: Tensor) -> Tensor:
        """Give each channel a weight that its own mean and its two neighbours' decide: (batch, width, 1, 1)."""
        means = image.mean((2, 3)).unsqueeze(1)
        gate: Tensor = self.c_nets(means)
        return gate.squeeze(1)[:, :, None, None]
