"""MulT: every modality looks at every other, over sequences that need not be aligned; for `mosi` and `mosei`.

Idea: Y.-H. H. Tsai, S. Bai, P. P. Liang, J. Z. Kolter, L.-P. Morency, R. Salakhutdinov, "Multimodal Transformer for
Unaligned Multimodal Language Sequences", ACL 2019 (arXiv 1906.00295).
Original: https://github.com/yaohungt/Multimodal-Transformer, MIT; its attention and positions follow fairseq, MIT.
Code: written for subsense, Apache-2.0. Names and shapes of the `state_dict` are the original's, so its weights load
where they were saved as a `state_dict`. No weights come with it.

Left out: the variants with fewer targets (``--lonly`` and the like), and CTC alignment.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MulT(nn.Module):
    """Score sentiment from text, audio and vision, each a sequence of its own length.

    Each modality is projected to a common width; for each of the six ordered pairs a transformer lets the first look
    at the second; for each target what it saw of both others is joined and read by a transformer, of which the last
    position counts. A modality that has the common width already is not projected, as in the original, and then its
    projection is never called: exclude it when adapting.

    Args:
        text, audio, vision: number of features of each; 300, 5 and 20 in the original's CMU-MOSI files.
        num_outputs: 1 for sentiment; 8 for the four emotions of IEMOCAP.
        width: size of a modality's positions inside, at least 4 and a multiple of `num_heads`.
        num_heads, num_layers: of each transformer; those that read the joined sequences have at least three layers.
        attn_mask: whether a position sees only what is not later (plus the difference in length, across modalities).
        attn_dropout: rate on attention weights where text is looked at.
        attn_dropout_audio, attn_dropout_vision: the same for the others.
        relu_dropout, res_dropout, out_dropout: rates in feed-forward parts, before each sum, before the last layers.
        embed_dropout: rate on text features, and on positions entering a transformer.

    >>> MulT()(torch.randn(2, 50, 300), torch.randn(2, 40, 5), torch.randn(2, 30, 20)).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        text: int = 300,
        audio: int = 5,
        vision: int = 20,
        *,
        num_outputs: int = 1,
        width: int = 30,
        num_heads: int = 5,
        num_layers: int = 5,
        attn_mask: bool = True,
        attn_dropout: float = 0.1,
        attn_dropout_audio: float = 0.0,
        attn_dropout_vision: float = 0.0,
        relu_dropout: float = 0.1,
        embed_dropout: float = 0.25,
        res_dropout: float = 0.1,
        out_dropout: float = 0.0,
    ) -> None:
        if width < 4 or width % num_heads:
            raise ValueError(f"width: expected at least 4 and a multiple of {num_heads} heads, but found {width}")
        super().__init__()
        rates = {"l": attn_dropout, "a": attn_dropout_audio, "v": attn_dropout_vision}

        def encoder(size: int, depth: int, source: str) -> Encoder:
            drop = (rates[source], relu_dropout, res_dropout, embed_dropout)
            return Encoder(size, num_heads, depth, attn_mask, *drop)

        for name, features in zip("lav", (text, audio, vision), strict=True):
            self.add_module(f"proj_{name}", nn.Conv1d(features, width, 1, bias=False))
        for target in "lav":
            for source in "lav".replace(target, ""):
                self.add_module(f"trans_{target}_with_{source}", encoder(width, num_layers, source))
        for target in "lav":
            self.add_module(f"trans_{target}_mem", encoder(2 * width, max(num_layers, 3), target))
        self.proj1, self.proj2 = nn.Linear(6 * width, 6 * width), nn.Linear(6 * width, 6 * width)
        self.out_layer = nn.Linear(6 * width, num_outputs)
        self.text_dropout, self.dropout = nn.Dropout(embed_dropout), nn.Dropout(out_dropout)

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """Score: three tensors (batch, time, feature), each with a time of its own -> (batch, num_outputs)."""
        features = self.features(text, audio, vision)
        hidden = self.proj2(self.dropout(F.relu(self.proj1(features))))
        scores: Tensor = self.out_layer(hidden + features)
        return scores

    def features(self, text: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """Give what the last layers see: (batch, 6 * width)."""
        sequences = {
            name: self._project(name, x)
            for name, x in zip("lav", (self.text_dropout(text), audio, vision), strict=True)
        }
        return torch.cat([self._read(target, sequences) for target in "lav"], -1)

    def _project(self, name: str, x: Tensor) -> Tensor:
        """(batch, time, feature) -> (time, batch, width)."""
        project = self.get_submodule(f"proj_{name}")
        assert isinstance(project, nn.Conv1d)
        wide = x.transpose(1, 2)
        return (wide if project.in_channels == project.out_channels else project(wide)).permute(2, 0, 1)

    def _read(self, target: str, sequences: dict[str, Tensor]) -> Tensor:
        seen = [
            self.get_submodule(f"trans_{target}_with_{source}")(sequences[target], sequences[source])
            for source in "lav".replace(target, "")
        ]
        read: Tensor = self.get_submodule(f"trans_{target}_mem")(torch.cat(seen, -1))
        return read[-1]


class Encoder(nn.Module):
    """Be a transformer over (time, batch, width) that looks at itself, or at another sequence in every layer."""

    version: Tensor

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_layers: int,
        attn_mask: bool,
        attn_dropout: float,
        relu_dropout: float,
        res_dropout: float,
        embed_dropout: float,
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.dropout = nn.Dropout(embed_dropout)
        self.embed_positions = Positions(width)
        self.layers = nn.ModuleList(
            EncoderLayer(width, num_heads, attn_mask, attn_dropout, relu_dropout, res_dropout)
            for _ in range(num_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        self.register_buffer("version", torch.tensor([2.0]))  # nothing reads it: the original's checkpoints hold it

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Give a sequence as long as `x`."""
        x = self._embed(x)
        keys, values = (None, None) if source is None else (self._embed(source), self._embed(source))
        for layer in self.layers:
            x = layer(x, keys, values)
        output: Tensor = self.layer_norm(x)
        return output

    def _embed(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.scale * x + self.embed_positions(x))
        return embedded


class EncoderLayer(nn.Module):
    """Be one layer: attention, then a feed-forward part, each after a norm and added to what came in."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        attn_mask: bool,
        attn_dropout: float,
        relu_dropout: float,
        res_dropout: float,
    ) -> None:
        super().__init__()
        self.attn_mask = attn_mask
        self.self_attn = PackedAttention(width, num_heads, attn_dropout)
        self.fc1, self.fc2 = _linear(width, 4 * width), _linear(4 * width, width)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.relu_dropout, self.res_dropout = nn.Dropout(relu_dropout), nn.Dropout(res_dropout)

    def forward(self, x: Tensor, keys: Tensor | None, values: Tensor | None) -> Tensor:
        """(time, batch, width), twice (source time, batch, width) or None: itself -> (time, batch, width)."""
        query = self.layer_norms[0](x)
        key = query if keys is None else self.layer_norms[0](keys)
        value = query if values is None else self.layer_norms[0](values)
        mask = _not_later(len(query), len(key), x.device) if self.attn_mask else None
        x = x + self.res_dropout(self.self_attn(query, key, value, mask))
        hidden = self.relu_dropout(F.relu(self.fc1(self.layer_norms[1](x))))
        output: Tensor = x + self.res_dropout(self.fc2(hidden))
        return output


class PackedAttention(nn.Module):
    """Attend over (time, batch, width), with the weights of query, key and value in one raw parameter.

    To adapt the projections, declare the class: ``layers=[subsense.AttentionClass(PackedAttention)]``.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = _linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend; `mask` (time, source time) is true where a position may look."""
        q, k, v = (self._project(part, x) for part, x in enumerate((query, key, value)))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
        mixed = self.dropout(torch.softmax(scores, -1)) @ v
        output: Tensor = self.out_proj(mixed.permute(2, 0, 1, 3).flatten(2))
        return output

    def _project(self, part: int, x: Tensor) -> Tensor:
        """(time, batch, width) -> (batch, head, time, feature of a head)."""
        width = x.shape[-1]
        rows = slice(part * width, (part + 1) * width)
        projected = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        heads: Tensor = projected.unflatten(-1, (self.num_heads, -1))
        return heads.permute(1, 2, 0, 3)


class Positions(nn.Module):
    """Give sinusoidal positions, counted from 1, and zeros where the first feature is exactly zero: padding.

    So a modality filled with zeros, projected without a bias, has no positions at all. It has them as soon as something
    shifts the projection.
    """

    _float_tensor: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("_float_tensor", torch.zeros(1))  # nothing reads it: the original's checkpoints hold it

    def forward(self, x: Tensor) -> Tensor:
        """(time, batch, width) -> the same shape."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000) / (half - 1)))
        angles = torch.arange(1, len(x) + 1, device=x.device)[:, None] * rates
        waves = F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, self.width % 2))
        positions: Tensor = waves.to(x.dtype)[:, None] * (x[..., :1] != 0)
        return positions


def _not_later(length: int, source: int, device: torch.device) -> Tensor:
    return torch.ones(length, source, dtype=torch.bool, device=device).tril(abs(source - length))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
