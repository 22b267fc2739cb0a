"""The layers at which `check_adapter` tries a method: torch's, and two of a class to declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from subsense.adapters.layers.declare import AttentionClass, LayerClass


@dataclass(frozen=True)
class LayerKind:
    """Name a layer that adapters are checked at.

    Attributes:
        make: makes one.
        axes: axis string of its input.
    """

    make: Callable[[], nn.Module]
    axes: str


LAYER_KINDS: Mapping[str, LayerKind] = {
    "Linear": LayerKind(lambda: nn.Linear(6, 4), "5 6"),
    "Linear, no bias": LayerKind(lambda: nn.Linear(6, 4, bias=False), "6"),
    "Conv1d": LayerKind(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), "4 9"),
    "Conv2d": LayerKind(lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), "4 5 5"),
    "Conv2d, groups": LayerKind(lambda: nn.Conv2d(4, 6, (3, 2), groups=2, dilation=(1, 2), bias=False), "4 6 6"),
    "Conv2d, depthwise": LayerKind(lambda: nn.Conv2d(4, 8, 3, groups=4, padding="same"), "4 5 5"),
    "Conv3d": LayerKind(lambda: nn.Conv3d(2, 4, 2, padding=1, padding_mode="circular"), "2 3 4 3"),
    "ConvTranspose1d": LayerKind(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), "4 5"),
    "ConvTranspose2d": LayerKind(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), "4 4 5"),
    "ConvTranspose3d": LayerKind(lambda: nn.ConvTranspose3d(2, 4, 2, dilation=2, bias=False), "2 3 3 3"),
    "BatchNorm1d": LayerKind(lambda: _used(nn.BatchNorm1d(4)), "4 5"),
    "BatchNorm2d": LayerKind(lambda: _used(nn.BatchNorm2d(4)), "4 3 3"),
    "BatchNorm3d": LayerKind(lambda: _used(nn.BatchNorm3d(4)), "4 2 3 2"),
    "BatchNorm2d, no affine": LayerKind(lambda: nn.BatchNorm2d(4, affine=False), "4 3 3"),
    "LayerNorm": LayerKind(lambda: _used(nn.LayerNorm(6)), "5 6"),
    "LayerNorm, two axes": LayerKind(lambda: _used(nn.LayerNorm((5, 6))), "3 5 6"),
    "LayerNorm, no affine": LayerKind(lambda: nn.LayerNorm(6, elementwise_affine=False), "5 6"),
    "GroupNorm": LayerKind(lambda: _used(nn.GroupNorm(2, 4)), "4 3 3"),
    "InstanceNorm1d": LayerKind(lambda: _used(nn.InstanceNorm1d(4, affine=True)), "4 7"),
    "InstanceNorm2d": LayerKind(lambda: nn.InstanceNorm2d(4, track_running_stats=True), "4 3 3"),
    "InstanceNorm3d": LayerKind(lambda: _used(nn.InstanceNorm3d(4, affine=True)), "4 2 3 2"),
    "RMSNorm": LayerKind(lambda: _used(nn.RMSNorm(6)), "5 6"),
    "MultiheadAttention": LayerKind(lambda: _SelfAttention(8, 2, batch_first=True), "5 8"),
    "MultiheadAttention, sequence first": LayerKind(lambda: _SelfAttention(8, 2), "5 8"),
    "MultiheadAttention, own widths": LayerKind(lambda: _SelfAttention(8, 2, kdim=8, vdim=8, bias=False), "5 8"),
    "declared norm": LayerKind(lambda: ChannelFirstNorm(4), "4 3 3"),
    "declared attention": LayerKind(lambda: PackedAttention(8, 2), "5 8"),
}
"""Layers at which `check_adapter` tries a method, by name."""


class ChannelFirstNorm(nn.Module):
    """Normalise over the channels of (batch, channel, ...) with parameters of its own: a layer class to declare."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(num_channels))
        self.offset = nn.Parameter(0.1 * torch.randn(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        centred = x - x.mean(1, keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + self.eps)
        shape = (-1, *[1] * (x.dim() - 2))
        return self.gain.view(shape) * scaled + self.offset.view(shape)


CHANNEL_FIRST = LayerClass(ChannelFirstNorm, kind="norm", axis=1, weight="gain", bias="offset")


class PackedAttention(nn.Module):
    """Attend over (batch, position, channel) with packed raw parameters: a layer class to declare."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.packed = nn.Parameter(torch.randn(3 * size, size) / size**0.5)
        self.offset = nn.Parameter(0.1 * torch.randn(3 * size))
        self.out = nn.Linear(size, size)
        self.size, self.num_heads = size, num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Attend, with the query on its own and key and value in one product."""
        query = functional.linear(x, self.packed[: self.size], self.offset[: self.size])
        key, value = functional.linear(x, self.packed[self.size :, :], self.offset[self.size :]).chunk(2, -1)
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed: Tensor = self.out(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return mixed


PACKED = AttentionClass(PackedAttention, weight="packed", bias="offset")


class _SelfAttention(nn.Module):
    def __init__(self, size: int, num_heads: int, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, num_heads, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.attention.batch_first else x.transpose(0, 1)
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output if self.attention.batch_first else output.transpose(0, 1)


def _used(layer: nn.Module) -> nn.Module:
    """Give a normalisation layer parameters and statistics as if it had been trained."""
    for name, tensor in layer.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.2 * torch.randn_like(tensor)
            tensor.copy_(tensor + (noise.abs() if name == "running_var" else noise))
    return layer
