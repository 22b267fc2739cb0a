"""Four small convolutional encoders whose tokens meet in a transformer, for `digits`.

Idea: tokens of all modalities in one self-attention, the plain form that A. Nagrani et al., Attention Bottlenecks for
Multimodal Fusion, NeurIPS 2021 (arXiv 2107.00135), start from.
Code: written for subsense, Apache-2.0. No published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CAMERAS = ("nw", "ne", "sw", "se")


class DigitsTransformer(nn.Module):
    """Recognise a digit from four quadrants.

    Each camera has an encoder of its own (two convolutions with BatchNorm) that gives four tokens; a transformer lets
    the sixteen tokens of all cameras attend to each other; their mean is classified.

    Args:
        num_classes: number of classes.
        width: size of a token, a multiple of 4.
        num_layers: number of transformer layers.
        dropout: rate inside the transformer.

    >>> DigitsTransformer()(*torch.zeros(4, 2, 1, 4, 4)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, width: int = 32, num_layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({camera: _encoder(width) for camera in CAMERAS})
        self.position = nn.Parameter(0.02 * torch.randn(4 * len(CAMERAS), width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
        self.fusion = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, nw: Tensor, ne: Tensor, sw: Tensor, se: Tensor) -> Tensor:
        """Score the classes: four (batch, 1, 4, 4) -> (batch, num_classes)."""
        images = dict(zip(CAMERAS, (nw, ne, sw, se), strict=True))
        maps = [encoder(images[camera]) for camera, encoder in self.encoders.items()]
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in maps], dim=1)
        fused = self.fusion(tokens + self.position)
        scores: Tensor = self.head(self.norm(fused.mean(dim=1)))
        return scores


def _encoder(width: int) -> nn.Sequential:
    """Build (batch, 1, 4, 4) -> (batch, width, 2, 2)."""
    return nn.Sequential(
        nn.Conv2d(1, width // 2, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width // 2),
        nn.ReLU(),
        nn.Conv2d(width // 2, width, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
