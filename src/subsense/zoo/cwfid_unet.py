"""A small U-Net with one encoder per channel, fused at every resolution, for `cwfid`.

Idea: U-Net, O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015 (arXiv 1505.04597); two encoders that meet at every
resolution as in FuseNet, C. Hazirbas et al., ACCV 2016, here by a 1 x 1 convolution in place of the sum.
Code: written for subsense, Apache-2.0. No published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODALITIES = ("red", "nir")


class CWFIDUNet(nn.Module):
    """Label each pixel soil, crop or weed from a red and a near infrared image.

    Args:
        num_classes: number of classes.
        width: channels at the highest resolution; doubled at each of the two halvings after the first.

    >>> CWFIDUNet()(torch.zeros(1, 1, 32, 48), torch.zeros(1, 1, 32, 48)).shape
    torch.Size([1, 3, 32, 48])
    """

    def __init__(self, num_classes: int = 3, width: int = 16) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.encoders = nn.ModuleDict({name: _encoder(widths) for name in MODALITIES})
        self.fusions = nn.ModuleList(_block(2 * channels, channels, kernel_size=1) for channels in widths)
        pairs = zip(widths[1:], widths[:-1], strict=True)
        self.decoder = nn.ModuleList(_block(deep + shallow, shallow) for deep, shallow in pairs)
        self.head = nn.Conv2d(width, num_classes, kernel_size=1)

    def forward(self, red: Tensor, nir: Tensor) -> Tensor:
        """Score the classes: two (batch, 1, H, W) -> (batch, num_classes, H, W); H and W from 16."""
        pyramids = [_pyramid(self.encoders[name], image) for name, image in (("red", red), ("nir", nir))]
        levels = zip(self.fusions, *pyramids, strict=True)
        fused = [fusion(torch.cat(features, dim=1)) for fusion, *features in levels]
        deep = fused.pop()
        for block in reversed(self.decoder):
            shallow = fused.pop()
            deep = block(torch.cat([F.interpolate(deep, shallow.shape[-2:], mode="bilinear"), shallow], dim=1))
        scores: Tensor = F.interpolate(self.head(deep), red.shape[-2:], mode="bilinear")
        return scores


def _pyramid(encoder: nn.Module, image: Tensor) -> list[Tensor]:
    """Collect an encoder's features, each at half the resolution of the one before."""
    features = [image]
    for stage in encoder.children():
        features.append(stage(features[-1]))
    return features[1:]


def _encoder(widths: tuple[int, ...]) -> nn.ModuleList:
    stages = zip((1, *widths[:-1]), widths, strict=True)
    return nn.ModuleList(_stage(num_inputs, num_outputs) for num_inputs, num_outputs in stages)


def _stage(num_inputs: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(*_block(num_inputs, num_outputs, stride=2), *_block(num_outputs, num_outputs))


def _block(num_inputs: int, num_outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(num_outputs), nn.ReLU())
