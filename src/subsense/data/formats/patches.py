"""Windows cut out of volumes at random, as often as wanted around what is to be found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from subsense.data.base import Item, Part


class Patches(Part):
    """Give one window of each volume, another one in every epoch; the same epoch and index always give the same.

    Args:
        volumes: samples `({modality: (channel, D, H, W)}, label)`, the label (D, H, W) or (region, D, H, W).
        size: of the window; what is smaller is padded with zeros at the end of each axis.
        foreground: probability that a place with a label other than 0 is in the middle, where there is one.
        seed: of all draws.
        ignore: label that doesn't count as foreground.

    >>> import torch
    >>> from subsense.data.base import FileSamples
    >>> label = torch.zeros(6, 6, 6).index_fill(0, torch.tensor([5]), 1)
    >>> volumes = FileSamples(lambda index: ({"t1": torch.zeros(1, 6, 6, 6)}, label), groups=["case"])
    >>> inputs, cut = Patches(volumes, (2, 2, 2), foreground=1.0)[0]
    >>> inputs["t1"].shape, bool(cut.any())
    (torch.Size([1, 2, 2, 2]), True)
    """

    def __init__(
        self, volumes: Part, size: Sequence[int], foreground: float = 2 / 3, seed: int = 0, ignore: int = 255
    ) -> None:
        self.volumes, self.groups = volumes, volumes.groups
        self.size, self.foreground, self.seed, self.ignore, self.epoch = tuple(size), foreground, seed, ignore, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, in which other windows are drawn."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        inputs, label = self.volumes[index]
        draw = np.random.default_rng([self.seed, self.epoch, index])
        corner = self._corner(label, draw)
        return {name: self._cut(volume, corner) for name, volume in inputs.items()}, self._cut(label, corner)

    def _corner(self, label: Tensor, draw: np.random.Generator) -> list[int]:
        wanted = ((label != 0) & (label != self.ignore)).reshape(-1, *label.shape[-3:]).any(0)
        spare = [max(0, length - size) for length, size in zip(wanted.shape, self.size, strict=True)]
        if draw.random() < self.foreground and (places := wanted.nonzero()).numel():
            middle = places[int(draw.integers(len(places)))].tolist()
            corner = [at - size // 2 for at, size in zip(middle, self.size, strict=True)]
            return [min(max(0, first), most) for first, most in zip(corner, spare, strict=True)]
        return [int(draw.integers(most + 1)) for most in spare]

    def _cut(self, volume: Tensor, corner: Sequence[int]) -> Tensor:
        for axis, (first, size) in enumerate(zip(corner, self.size, strict=True), start=-3):
            volume = volume.narrow(axis, first, min(size, volume.shape[axis] - first))
        lacking = [size - found for size, found in zip(self.size, volume.shape[-3:], strict=True)]
        return pad(volume, [one for end in reversed(lacking) for one in (0, end)]).contiguous()
