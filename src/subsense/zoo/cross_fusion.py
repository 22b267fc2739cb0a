"""CMX's two modules that let the features of two modalities meet: rectification and fusion.

Paper: J. Zhang et al., CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation with Transformers, IEEE T-ITS 2023
(arXiv 2203.04838).
Original: https://github.com/huaaaliu/RGBX_Semantic_Segmentation, MIT; used by CMNeXt.
Code: written for subsense, Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsense.zoo.mix_transformer import to_heads, to_map, to_tokens

SHARE = 0.5
"""How much of the other modality each of the two rectifications lets through."""


class ChannelWeights(nn.Module):
    """Weigh channels from the mean and the greatest value of each, over both modalities."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 2 * width), nn.Sigmoid()
        self.mlp = nn.Sequential(*layers)

    def forward(self, both: Tensor) -> tuple[Tensor, ...]:
        """Weigh: (batch, 2 width, H, W) -> two (batch, width, 1, 1)."""
        summary = torch.cat([both.mean((2, 3)), both.amax((2, 3))], dim=1)
        weights: Tensor = self.mlp(summary)
        return weights[:, :, None, None].chunk(2, dim=1)


class SpatialWeights(nn.Module):
    """Weigh places from the channels of both modalities there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = nn.Conv2d(2 * width, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1), nn.Sigmoid()
        self.mlp = nn.Sequential(*layers)

    def forward(self, both: Tensor) -> tuple[Tensor, ...]:
        """Weigh: (batch, 2 width, H, W) -> two (batch, 1, H, W)."""
        weights: Tensor = self.mlp(both)
        return weights.chunk(2, dim=1)


class Rectification(nn.Module):
    """Correct each modality's features by the other's, by channel and by place (FRM)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channel_weights = ChannelWeights(width)
        self.spatial_weights = SpatialWeights(width)

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Correct: two (batch, width, H, W) -> the same shapes."""
        both = torch.cat([one, other], dim=1)
        pairs = zip(self.channel_weights(both), self.spatial_weights(both), strict=True)
        of_one, of_other = (SHARE * channel + SHARE * place for channel, place in pairs)
        return one + of_other * other, other + of_one * one


class CrossAttention(nn.Module):
    """Let each modality ask for the other's summary, a matrix of key and value channels."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kv1 = nn.Linear(width, 2 * width, bias=False)
        self.kv2 = nn.Linear(width, 2 * width, bias=False)

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Attend: two (batch, token, width) -> the same shapes."""
        of_one, of_other = self._summary(self.kv1(one)), self._summary(self.kv2(other))
        return self._ask(one, of_other), self._ask(other, of_one)

    def _summary(self, keys_values: Tensor) -> Tensor:
        """Sum up: (batch, token, 2 width) -> (batch, head, channel of keys, channel of values)."""
        key, value = (to_heads(one, self.num_heads) for one in keys_values.chunk(2, dim=-1))
        return torch.softmax(key.transpose(-2, -1) @ value * key.shape[-1] ** -0.5, dim=-2)

    def _ask(self, tokens: Tensor, summary: Tensor) -> Tensor:
        return (to_heads(tokens, self.num_heads) @ summary).transpose(1, 2).flatten(2)


class CrossPath(nn.Module):
    """Exchange information between two modalities' tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.channel_proj1 = nn.Linear(width, 2 * width)
        self.channel_proj2 = nn.Linear(width, 2 * width)
        self.cross_attn = CrossAttention(width, num_heads)
        self.end_proj1 = nn.Linear(2 * width, width)
        self.end_proj2 = nn.Linear(2 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange: two (batch, token, width) -> the same shapes."""
        kept_1, shown_1 = self.channel_proj1(one).relu().chunk(2, dim=-1)
        kept_2, shown_2 = self.channel_proj2(other).relu().chunk(2, dim=-1)
        seen_1, seen_2 = self.cross_attn(shown_1, shown_2)
        one = self.norm1(one + self.end_proj1(torch.cat([kept_1, seen_1], dim=-1)))
        other = self.norm2(other + self.end_proj2(torch.cat([kept_2, seen_2], dim=-1)))
        return one, other


class ChannelEmbedding(nn.Module):
    """Merge the channels of both modalities, by a 1 x 1 convolution beside a depthwise branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Conv2d(2 * width, width, kernel_size=1, bias=False)
        self.channel_embed = nn.Sequential(
            nn.Conv2d(2 * width, width, kernel_size=1),
            nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=1),
            nn.BatchNorm2d(width),
        )
        self.norm = nn.BatchNorm2d(width)

    def forward(self, both: Tensor) -> Tensor:
        """Merge: (batch, 2 width, H, W) -> (batch, width, H, W)."""
        merged: Tensor = self.norm(self.residual(both) + self.channel_embed(both))
        return merged


class Fusion(nn.Module):
    """Make one map of two (FFM)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.cross = CrossPath(width, num_heads)
        self.channel_emb = ChannelEmbedding(width)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Fuse: two (batch, width, H, W) -> (batch, width, H, W)."""
        size = one.shape[2], one.shape[3]
        tokens = torch.cat(self.cross(to_tokens(one), to_tokens(other)), dim=-1)
        fused: Tensor = self.channel_emb(to_map(tokens, size))
        return fused
