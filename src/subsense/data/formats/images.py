"""Pictures from files: pixels, colour and labels as tensors, and samples that are made of them.

A network pretrained on ImageNet wants its colours normalised by ImageNet's mean and deviation. The other modalities are
left in 0..1, as CMNeXt's published loaders leave them (https://github.com/jamycheung/DELIVER, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from subsense.data.base import Description, Item, Part, count_missing, read_lines
from subsense.data.formats.augmentation import Augmentation
from subsense.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".mat"})
IGNORED = 255
"""The label of pixels that don't count: unlabelled ones, and those that augmentation pads with."""


class ImageSamples(Part):
    """Read samples of registered pictures and a label picture, augment them, normalise the colours.

    Args:
        description: of the data set; says which it is where a sample doesn't fit.
        read: index -> ``({modality: (3, H, W) in 0..1}, label (H, W))``; see `FileSamples`.
        groups: see `Part`.
        augmentation: what is changed at random; None: nothing.
        colour: the modality that ImageNet's mean and deviation normalise.

    What is drawn for a sample depends on the augmentation's seed, the epoch and the index alone. The epoch is shared
    with the workers of a `DataLoader`, persistent ones too.
    """

    def __init__(
        self,
        description: Description,
        read: Callable[[int], Item],
        groups: Sequence[str],
        augmentation: Augmentation | None = None,
        colour: str = "rgb",
    ) -> None:
        self.groups = tuple(groups)
        self._description, self._read, self._augmentation, self._colour = description, read, augmentation, colour
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: the training loop says when an epoch begins."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        inputs, label = self._read(index)
        self._check_sizes(inputs, label, self.groups[index])
        if self._augmentation is not None:
            inputs, label = self._augmentation.apply(inputs, label, int(self._epoch), index)
        if self._colour in inputs:
            inputs = inputs | {self._colour: normalise(inputs[self._colour])}
        return inputs, label

    def _check_sizes(self, inputs: Mapping[str, Tensor], label: Tensor, sample: str) -> None:
        for name, image in inputs.items():
            if image.shape[-2:] != label.shape:
                found = f"{tuple(image.shape[-2:])} and {tuple(label.shape)}"
                raise self._description.error(f"{sample}: expected {name} as large as the label, but found {found}.")


def normalise(image: Tensor) -> Tensor:
    """Bring a picture (3, H, W) in 0..1 to zero mean and unit deviation, as they are over ImageNet."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (image - mean) / deviation


def read_image(description: Description, path: Path) -> Tensor:
    """Read a picture as float32 (channel, H, W) in 0..1, whether it has 8 or 16 bits.

    Pillow reads the upper 8 bits of 16-bit colour; 16-bit grey is read in full.
    """
    pixels = read_pixels(description, path)
    top = 255 if pixels.dtype == np.uint8 else 65535
    image = torch.from_numpy(pixels.astype(np.float32) / top)
    return image.unsqueeze(0) if image.dim() == 2 else image.permute(2, 0, 1).contiguous()


def read_three(description: Description, path: Path) -> Tensor:
    """Read a picture as three channels (3, H, W) in 0..1: grey is repeated, what colour has besides is dropped."""
    image = read_image(description, path)
    return image.expand(3, -1, -1) if len(image) < 3 else image[:3]


def read_label(description: Description, path: Path) -> Tensor:
    """Read a label picture as int64 (H, W): class indices, or `IGNORED`."""
    pixels = read_pixels(description, path)
    if pixels.ndim != 2:
        raise description.error(f"{path}: expected one channel of class indices, but found {pixels.shape}.")
    return check_label(description, torch.from_numpy(pixels.astype(np.int64)), path)


def check_label(description: Description, label: Tensor, place: object) -> Tensor:
    """Refuse what is neither a class index nor `IGNORED`."""
    wrong = label[(label >= description.num_classes) & (label != IGNORED)]
    if wrong.numel():
        raise description.error(
            f"{place}: expected labels 0 to {description.num_classes - 1}, or {IGNORED}, but found {int(wrong.max())}."
        )
    return label


def read_pixels(description: Description, path: Path) -> NDArray[Any]:
    """Read a picture's pixels as they are, (H, W) or (H, W, channel); a palette's indices stay indices."""
    with open_picture(description, path) as image:
        return np.array(image)


@contextmanager
def open_picture(description: Description, path: Path) -> Iterator[Image.Image]:
    """Open a picture; raise `DataError` naming the file if it is damaged, no picture, or above Pillow's limit."""
    try:
        with Image.open(path) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise description.error(
            f"cannot read {path}: {error} If you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except (OSError, SyntaxError, UnidentifiedImageError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise description.error(f"cannot read {path}: {error}.") from error


def read_names(path: Path) -> list[str]:
    """Read a list of samples: the first word of each line, without folder and the ending of a picture or an array.

    Other dots belong to the name, such as those of a time stamp: ``1560244315.996``.
    """
    return [strip_ending(line.split()[0]) for line in read_lines(path)]


def strip_ending(file: str) -> str:
    """Take folder and ending from a picture's or an array's path.

    >>> strip_ending("rgb/cam.01.png"), strip_ending("1560244315.996")
    ('cam.01', '1560244315.996')
    """
    name = Path(file).name
    return name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in ENDINGS else name


def read_parts(description: Description, folder: Path, files: Mapping[str, str]) -> dict[str, list[str]]:
    """Read the lists of samples of all parts, and refuse a sample that is both in `train` and in `test`.

    Args:
        description: of the data set.
        folder: holds the lists.
        files: part -> the list's path in the folder.
    """
    parts = {part: read_names(folder / file) for part, file in files.items()}
    for part, names in parts.items():
        if not names:
            raise description.error(f"{folder / files[part]}: expected the names of samples, but found none.")
    shared = set(parts["train"]) & set(parts["test"])
    if shared:
        raise description.error(f"{folder}: expected no sample in both train and test, but found {sorted(shared)[:3]}.")
    return parts


def locate_pictures(
    description: Description,
    folder: Path,
    patterns: Mapping[str, str],
    parts: Mapping[str, Sequence[str]],
    missing: str = "refuse",
    modalities: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Look for every file of every sample, and say which modalities samples lack, a sentence each.

    Args:
        description: of the data set.
        folder: the data set's own.
        patterns: kind -> where the file of a sample is in the folder, its name as ``{}``.
        parts: part -> the samples' names.
        missing, modalities: see `count_missing`.

    Raises:
        DataError: names the first file that is absent and has to be there.
    """
    notes = []
    for part, names in parts.items():
        files = [{kind: folder / one.format(name) for kind, one in patterns.items()} for name in names]
        notes += count_missing(description, part, files, missing, modalities)
    return tuple(notes)
