"""Positions of a layer's output as rows of a matrix, and some of them where there are many."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from zlib import crc32

import torch
from torch import Tensor

from subsense.adapters.layers.layer import Layer


@dataclass(frozen=True)
class Sampler:
    """Take positions of outputs, the same ones whatever is missing.

    Args:
        most: positions of a site in all; None: every one.
        total: rows of data in all.
        seed: of the draw.
    """

    most: int | None
    total: int
    seed: int

    def rows(self, layer: Layer, values: Tensor, num_rows: int, *where: int) -> Tensor:
        """Give (position, feature) of what is shaped as a layer's output, its features in one axis.

        Args:
            layer: the layer.
            values: a tensor.
            num_rows: rows of data in it, of which it gets its share.
            where: which call of which chunk it is.
        """
        axis = layer.axis % (values.dim() + len(layer.features) - 1)
        shape = values.shape
        maps = values.detach().reshape(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
        positions, inner = len(maps) * maps.shape[2], maps.shape[2]
        limit = positions if self.most is None else max(1, self.most * num_rows // self.total)
        if limit >= positions:
            return maps.movedim(1, 2).flatten(0, 1)
        generator = torch.Generator().manual_seed(crc32(repr((self.seed, layer.key, where)).encode()))
        steps = torch.arange(limit, dtype=torch.float64) + torch.rand(limit, generator=generator, dtype=torch.float64)
        places = (steps * (positions / limit)).long().clamp(max=positions - 1).to(maps.device)
        return maps[places // inner, :, places % inner]
