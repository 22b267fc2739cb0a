"""An encoder per sensor and a transformer over all their tokens, for `utd-mhad`.

Idea: tokens of all modalities in one self-attention, the plain form that A. Nagrani et al., Attention Bottlenecks for
Multimodal Fusion, NeurIPS 2021 (arXiv 2107.00135), start from.
Code: written for subsense, Apache-2.0. No published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEQUENCES = {"skeleton": 60, "accelerometer": 3, "gyroscope": 3}
MODALITIES = (*SEQUENCES, "depth")
TOKENS = 4


class UTDMHADTransformer(nn.Module):
    """Recognise an action from skeleton, accelerometer, gyroscope and depth motion maps.

    Sequences pass three temporal convolutions, depth motion maps four spatial ones, each with BatchNorm; each modality
    gives four tokens; a transformer lets all sixteen attend to each other; their mean is classified.

    Args:
        num_classes: number of classes.
        width: size of a token, a multiple of 4.
        num_layers: number of transformer layers.
        dropout: rate in the encoders' output and inside the transformer.

    >>> inputs = {"skeleton": torch.zeros(2, 50, 60), "accelerometer": torch.zeros(2, 100, 3)}
    >>> inputs |= {"gyroscope": torch.zeros(2, 100, 3), "depth": torch.zeros(2, 3, 60, 80)}
    >>> UTDMHADTransformer()(**inputs).shape
    torch.Size([2, 27])
    """

    def __init__(self, num_classes: int = 27, width: int = 64, num_layers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        encoders = {name: _sequence_encoder(channels, width) for name, channels in SEQUENCES.items()}
        self.encoders = nn.ModuleDict(encoders | {"depth": _image_encoder(3, width)})
        self.position = nn.Parameter(0.02 * torch.randn(TOKENS * len(MODALITIES), width))
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
        self.fusion = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, skeleton: Tensor, accelerometer: Tensor, gyroscope: Tensor, depth: Tensor) -> Tensor:
        """Score the actions.

        Shapes: (batch, 50, 60), (batch, 100, 3), (batch, 100, 3), (batch, 3, 60, 80) -> (batch, num_classes); sequences
        may have any length from 8, maps any size from 16 x 16.
        """
        channels_first = [sequence.transpose(1, 2) for sequence in (skeleton, accelerometer, gyroscope)]
        inputs = dict(zip(MODALITIES, (*channels_first, depth), strict=True))
        maps = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in maps], dim=1)
        fused = self.fusion(self.dropout(tokens) + self.position)
        scores: Tensor = self.head(self.norm(fused.mean(dim=1)))
        return scores


def _sequence_encoder(channels: int, width: int) -> nn.Sequential:
    """Build (batch, channels, time) -> (batch, width, 4)."""
    return nn.Sequential(
        *_temporal_block(channels, width // 2),
        *_temporal_block(width // 2, width),
        *_temporal_block(width, width),
        nn.AdaptiveAvgPool1d(TOKENS),
    )


def _temporal_block(num_inputs: int, num_outputs: int) -> list[nn.Module]:
    convolution = nn.Conv1d(num_inputs, num_outputs, kernel_size=5, stride=2, padding=2, bias=False)
    return [convolution, nn.BatchNorm1d(num_outputs), nn.ReLU()]


def _image_encoder(channels: int, width: int) -> nn.Sequential:
    """Build (batch, channels, H, W) -> (batch, width, 2, 2)."""
    return nn.Sequential(
        *_spatial_block(channels, width // 4),
        *_spatial_block(width // 4, width // 2),
        *_spatial_block(width // 2, width),
        *_spatial_block(width, width),
        nn.AdaptiveAvgPool2d(2),
    )


def _spatial_block(num_inputs: int, num_outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size=3, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(num_outputs), nn.ReLU()]
