"""Two-stream video network: an R(2+1)D residual stream for each modality, fused late, for `ntu`.

Papers: K. Simonyan, A. Zisserman, Two-Stream Convolutional Networks for Action Recognition in Videos, NeurIPS 2014
(arXiv 1406.2199), for a stream per modality and late fusion; D. Tran et al., A Closer Look at Spatiotemporal
Convolutions for Action Recognition, CVPR 2018 (arXiv 1711.11248), for the streams: R(2+1)D, residual blocks of two
convolutions. The network of arXiv 2310.03986 is UMDR (B. Zhou et al., arXiv 2211.09146), of two streams too, which this
is not: its streams are convolutions throughout.
Code: written for subsense, Apache-2.0. No published weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from subsense.errors import FactoryError

CHANNELS = {"rgb": 3, "depth": 1}


class TwoStream(nn.Module):
    """Recognise an action from a clip of each modality.

    The defaults are two streams of R(2+1)D-18: 66.4 million parameters in all.

    Args:
        num_classes: number of classes.
        channels: modality -> channels of its clip, in the order of the streams; also more or fewer than two.
        width: channels of a stream's first stage; doubled at each further one.
        blocks: residual blocks in each stage; a stage after the first halves time, height and width.
        fusion: ``"features"``: the pooled features of all streams side by side before one linear layer; ``"scores"``:
            a linear layer for each stream, and the mean of their scores, as in the first paper.
        dropout: rate on the pooled features.

    Raises:
        FactoryError: an unknown fusion; no modality or stage; a size below 1.

    >>> network = TwoStream(width=4, blocks=(1, 1))
    >>> network(rgb=torch.zeros(2, 3, 4, 16, 16), depth=torch.zeros(2, 1, 4, 16, 16)).shape
    torch.Size([2, 60])
    """

    def __init__(
        self,
        num_classes: int = 60,
        channels: Mapping[str, int] = CHANNELS,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        fusion: Literal["features", "scores"] = "features",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check(channels, width, blocks, fusion)
        self.fusion = fusion
        self.streams = nn.ModuleDict({name: _stream(size, width, blocks) for name, size in channels.items()})
        self.dropout = nn.Dropout(dropout)
        size = width * 2 ** (len(blocks) - 1)
        sizes = [size * len(channels)] if fusion == "features" else [size] * len(channels)
        self.heads = nn.ModuleList(nn.Linear(one, num_classes) for one in sizes)

    def forward(self, **clips: Tensor) -> Tensor:
        """Score the classes: for each modality (batch, channels, T, H, W) -> (batch, num_classes).

        Clips may differ in size; the spatial sides start at 2 pixels, frames at one.
        """
        if set(clips) != set(self.streams):
            raise TypeError(f"expected clips of {', '.join(self.streams)}, but got {', '.join(clips) or 'none'}")
        features = [self.dropout(stream(clips[name])) for name, stream in self.streams.items()]
        inputs = [torch.cat(features, 1)] if self.fusion == "features" else features
        scores = [head(one) for head, one in zip(self.heads, inputs, strict=True)]
        return torch.stack(scores).mean(0)


def _check(channels: Mapping[str, int], width: int, blocks: Sequence[int], fusion: str) -> None:
    if fusion not in ("features", "scores"):
        raise FactoryError(f"two-stream: expected fusion 'features' or 'scores', but got {fusion!r}.")
    if not channels or not blocks or min(*channels.values(), width, *blocks) < 1:
        raise FactoryError(
            "two-stream: expected at least one modality and one stage, and sizes of at least 1, but got "
            f"channels={dict(channels)}, width={width}, blocks={list(blocks)}."
        )


def _stream(channels: int, width: int, blocks: Sequence[int]) -> nn.Sequential:
    """Build (batch, channels, T, H, W) -> (batch, width of the last stage)."""
    stages = []
    for number, count in enumerate(blocks):
        size = width * 2**number
        first = Block(size // 2, size, stride=2) if number else Block(size, size)
        stages.append(nn.Sequential(first, *(Block(size, size) for _ in range(count - 1))))
    return nn.Sequential(_stem(channels, width), *stages, nn.AdaptiveAvgPool3d(1), nn.Flatten())


def _stem(channels: int, width: int) -> nn.Sequential:
    """Build the first two convolutions, 7 x 7 pixels and then 3 frames, which halve height and width.

    Between them are 45 channels for each 64, as in the paper's networks.
    """
    middle = max(1, round(width * 45 / 64))
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(),
    )


class Block(nn.Module):
    """Add two (2+1)-D convolutions to what comes in; the way past them is 1 x 1 x 1 where the size changes."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(num_inputs, num_outputs, stride), nn.ReLU(), *_convolution(num_outputs, num_outputs)
        )
        changes = stride != 1 or num_inputs != num_outputs
        self.past = _projection(num_inputs, num_outputs, stride) if changes else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Give (batch, num_outputs, T / stride, H / stride, W / stride)."""
        output: Tensor = self.relu(self.branch(x) + self.past(x))
        return output


def _convolution(num_inputs: int, num_outputs: int, stride: int = 1) -> list[nn.Module]:
    """Build a convolution of 3 x 3 pixels, then one of 3 frames, with as many parameters as one of 3 x 3 x 3.

    The channels between them are those of Tran et al., section 3.5, with the block's sizes.
    """
    middle = max(1, num_inputs * num_outputs * 27 // (num_inputs * 9 + 3 * num_outputs))
    return [
        nn.Conv3d(num_inputs, middle, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, num_outputs, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(num_outputs),
    ]


def _projection(num_inputs: int, num_outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv3d(num_inputs, num_outputs, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(num_outputs))
