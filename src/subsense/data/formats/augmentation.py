"""Augmentation for segmentation: what changes geometry changes all modalities and the label alike.

The recipe of CMNeXt's published training (https://github.com/jamycheung/DELIVER, Apache-2.0): colour jitter, mirror
image, blur, random scale, random crop. Written anew on torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from subsense.errors import DataError
from subsense.support.factories import check_options

GREY = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601."""


@dataclass(frozen=True)
class Augmentation:
    """Say what is changed at random when a training sample is read.

    Attributes:
        scale: least and greatest factor of the size, drawn uniformly; after it comes the crop.
        crop: height and width of a window, placed at random. What is too small is padded to the right and below: with
            zeros, and in the label with `ignore_index`. None: no crop, so `scale` has to be (1, 1).
        flip: probability of the mirror image, left to right.
        photometric: probability of changing brightness, contrast and saturation **of the colours alone**, each by a
            factor of its own in 1 - `strength` to 1 + `strength`.
        strength: see `photometric`.
        blur: probability of a 3 x 3 Gaussian blur of the colours.
        colour: the modality that `photometric` and `blur` change.
        ignore_index: the label of padding; the loss has to leave it out.
        seed: of all draws.

    Raises:
        DataError: names every value that cannot be.
    """

    scale: Sequence[float] = (1.0, 1.0)
    crop: Sequence[int] | None = None
    flip: float = 0.0
    photometric: float = 0.0
    strength: float = 0.5
    blur: float = 0.0
    colour: str = "rgb"
    ignore_index: int = 255
    seed: int = 0

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise DataError("augment: " + "; ".join(faults))

    def _faults(self) -> list[str]:
        faults = [
            f"{name}: expected 0 to 1, but found {getattr(self, name)!r}"
            for name in ("flip", "photometric", "strength", "blur")
            if not 0 <= getattr(self, name) <= 1
        ]
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            faults.append(f"scale: expected the least factor and the greatest, above 0, but found {self.scale!r}")
        elif self.crop is None and tuple(self.scale) != (1, 1):
            faults.append("scale: needs crop, or the samples of a batch would differ in size")
        if self.crop is not None and (len(self.crop) != 2 or min(self.crop) < 1):
            faults.append(f"crop: expected height and width, both at least 1, but found {self.crop!r}")
        return faults

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None) -> Augmentation | None:
        """Make one of the options in a recipe; None of None. Raise `DataError` for an unknown one.

        >>> Augmentation.parse({"scale": [0.5, 2.0], "crop": [480, 640], "flip": 0.5}).crop
        [480, 640]
        """
        if options is None:
            return None
        check_options("augment", cls, options, DataError)
        return cls(**options)

    def apply(
        self, inputs: Mapping[str, Tensor], label: Tensor, epoch: int, index: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Change one sample; the same epoch and index always give the same.

        Args:
            inputs: modality -> picture (channel, H, W), colours in 0..1.
            label: class indices (H, W).
            epoch: from 0.
            index: of the sample in its part.
        """
        draw = np.random.default_rng([self.seed, epoch, index])
        images = dict(inputs)
        if draw.random() < self.photometric and self.colour in images:
            images[self.colour] = change_colours(images[self.colour], *(1 + self.strength * draw.uniform(-1, 1, 3)))
        if draw.random() < self.flip:
            images, label = {name: image.flip(-1) for name, image in images.items()}, label.flip(-1)
        if draw.random() < self.blur and self.colour in images:
            images[self.colour] = blur(images[self.colour])
        if self.crop is None:
            return images, label
        factor = draw.uniform(self.scale[0], self.scale[1])
        size = [max(1, round(length * factor)) for length in label.shape]
        corner = [
            int(draw.integers(0, max(0, length - wide) + 1)) for length, wide in zip(size, self.crop, strict=True)
        ]
        images = {name: self._window(resize(image, size), corner, 0) for name, image in images.items()}
        return images, self._window(resize_label(label, size), corner, self.ignore_index)

    def _window(self, image: Tensor, corner: Sequence[int], padding: int) -> Tensor:
        """Cut the crop out of (..., H, W) from the corner on, and pad what it lacks."""
        assert self.crop is not None
        (top, left), (height, width) = corner, self.crop
        image = image[..., top : top + height, left : left + width]
        return pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=padding)


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a picture (channel, H, W), interpolating; what shrinks is averaged first.

    >>> resize(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), (1, 2))
    tensor([[[0.7143, 2.2857]]])
    """
    if tuple(size) == tuple(image.shape[-2:]):
        return image
    return interpolate(image[None], tuple(size), mode="bilinear", align_corners=False, antialias=True)[0]


def resize_label(label: Tensor, size: Sequence[int]) -> Tensor:
    """Resize class indices (H, W) by taking the nearest: at the same places as `resize`, and never mixed.

    >>> resize_label(torch.tensor([[0, 255]]), (1, 4))
    tensor([[  0,   0, 255, 255]])
    """
    return interpolate(label[None, None].double(), tuple(size), mode="nearest-exact")[0, 0].to(label.dtype)


def change_colours(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Multiply a colour picture (3, H, W) in 0..1: by brightness, about its mean grey, about each pixel's grey.

    >>> change_colours(torch.full((3, 1, 1), 0.5), 1.5, 1.0, 1.0).flatten()
    tensor([0.7500, 0.7500, 0.7500])
    """
    image = (image * brightness).clamp(0, 1)
    image = torch.lerp(_grey(image).mean(), image, contrast).clamp(0, 1)
    return torch.lerp(_grey(image).expand_as(image), image, saturation).clamp(0, 1)


def blur(image: Tensor) -> Tensor:
    """Blur a picture (channel, H, W) with a Gaussian of 3 x 3 pixels and a deviation of 0.8; edges are mirrored."""
    side = float(np.exp(-0.5 / 0.8**2))
    row = torch.tensor([side, 1.0, side]) / (1 + 2 * side)
    kernel = torch.outer(row, row).expand(len(image), 1, 3, 3)
    padded = pad(image[None], (1, 1, 1, 1), mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel, groups=len(image))[0]


def _grey(image: Tensor) -> Tensor:
    """Give the brightness (1, H, W) of a colour picture."""
    return (image * torch.tensor(GREY).view(3, 1, 1)).sum(0, keepdim=True)
