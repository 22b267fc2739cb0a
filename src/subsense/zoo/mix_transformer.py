"""The parts of MiT, SegFormer's transformer encoder: overlapping patches, reduced attention, a mixing MLP.

Paper: E. Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021
(arXiv 2105.15203).
Original: https://github.com/NVlabs/SegFormer, code and ImageNet weights under NVIDIA's Source Code License for
SegFormer: research and evaluation, no commercial use.
Code: written for subsense from the paper and the published `state_dict`, Apache-2.0. LayerNorm's epsilon is torch's
1e-5, as in CMNeXt; SegFormer's own code has 1e-6.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from subsense.zoo.drop_path import DropPath

WIDTHS = {"B0": (32, 64, 160, 256)} | dict.fromkeys(("B1", "B2", "B3", "B4", "B5"), (64, 128, 320, 512))
DEPTHS = {
    "B0": (2, 2, 2, 2),
    "B1": (2, 2, 2, 2),
    "B2": (3, 4, 6, 3),
    "B3": (3, 4, 18, 3),
    "B4": (3, 8, 27, 3),
    "B5": (3, 6, 40, 3),
}
"""Variant -> channels, and number of blocks, of the four stages."""

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
PATCHES = (7, 3, 3, 3)
STRIDES = (4, 2, 2, 2)
"""Attention heads, spatial reduction of keys and values, patch size and stride of the four stages."""

Size = tuple[int, int]


def to_tokens(image: Tensor) -> Tensor:
    """Lay out a map as tokens: (batch, C, H, W) -> (batch, H W, C)."""
    return image.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """Lay out tokens as a map: (batch, H W, C) -> (batch, C, H, W), with `size` = (H, W)."""
    image: Tensor = tokens.transpose(1, 2).unflatten(2, size)
    return image


def to_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """Split tokens for attention: (batch, token, C) -> (batch, head, token, C / heads)."""
    heads: Tensor = tokens.unflatten(2, (num_heads, -1))
    return heads.transpose(1, 2)


def patch_convolution(num_inputs: int, width: int, stage: int) -> nn.Conv2d:
    """Make the convolution that cuts overlapping patches before a stage, counted from 0."""
    return nn.Conv2d(num_inputs, width, PATCHES[stage], STRIDES[stage], padding=PATCHES[stage] // 2)


class PatchEmbedding(nn.Module):
    """Make tokens of overlapping patches.

    Args:
        num_inputs, width: channels of the map that comes in, and of a token.
        stage: which of the four, from 0.
    """

    def __init__(self, num_inputs: int, width: int, stage: int) -> None:
        super().__init__()
        self.proj = patch_convolution(num_inputs, width, stage)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> tuple[Tensor, Size]:
        """Make tokens: (batch, num_inputs, H, W) -> (batch, h w, width), and (h, w), H and W over the stride."""
        patches = self.proj(image)
        return self.norm(to_tokens(patches)), (patches.shape[2], patches.shape[3])


class ReducedAttention(nn.Module):
    """Attend to keys and values at a lower resolution (equations 1 and 2)."""

    def __init__(self, width: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.sr = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """Attend: (batch, H W, width) -> the same shape."""
        key, value = self.kv(self._reduced(tokens, size)).chunk(2, dim=-1)
        query, key, value = (to_heads(one, self.num_heads) for one in (self.q(tokens), key, value))
        context = F.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.proj(context.transpose(1, 2).flatten(2))
        return attended

    def _reduced(self, tokens: Tensor, size: Size) -> Tensor:
        if self.sr is None or self.norm is None:
            return tokens
        reduced: Tensor = self.norm(to_tokens(self.sr(to_map(tokens, size))))
        return reduced


class Depthwise(nn.Module):
    """Mix each channel with its neighbours in the map: 3 x 3, one filter per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)

    def forward(self, image: Tensor) -> Tensor:
        """Mix: (batch, width, H, W) -> the same shape."""
        mixed: Tensor = self.dwconv(image)
        return mixed


class MixMLP(nn.Module):
    """Put a depthwise convolution into the MLP, so that no position code is needed (equation 3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = Depthwise(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """Transform: (batch, H W, width) -> the same shape."""
        hidden = to_tokens(self.dwconv(to_map(self.fc1(tokens), size)))
        transformed: Tensor = self.fc2(F.gelu(hidden))
        return transformed


class Block(nn.Module):
    """Attend, then transform, each with a residual.

    Args:
        width: channels of a token.
        stage: which of the four, from 0.
        drop_path: how often a row skips a branch in training.
    """

    def __init__(self, width: int, stage: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = ReducedAttention(width, HEADS[stage], REDUCTIONS[stage])
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MixMLP(width, hidden=4 * width)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """Transform: (batch, H W, width) -> the same shape."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size))
        transformed: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens), size))
        return transformed
