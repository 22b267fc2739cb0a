"""Data sets that are folders of pictures: where a sample's files are, how each kind is read, and which are absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from subsense.data.base import Data, Description, Item, check_missing, count_missing
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.images import ImageSamples

Files = Mapping[str, str]
"""Kind -> a sample's file, in the data set's folder; one kind is `label`."""

Reader = Callable[[Description, Path], Tensor]
"""Reads a picture as (3, H, W) in 0..1, or a label as (H, W)."""


@dataclass(frozen=True)
class Pictures:
    """Hold how a data set's pictures are read.

    Attributes:
        description: of the data set.
        folder: holds the files.
        readers: kind -> what reads it, in the order of the modalities, `label` last.
        scaled: kinds that are scaled to the label's size, to the nearest pixel, where they have another.
        missing: ``"refuse"``: every file has to be there; ``"present"``: a sample may lack modalities, not the label.
    """

    description: Description
    folder: Path
    readers: Mapping[str, Reader]
    missing: str = "refuse"
    scaled: tuple[str, ...] = ()
    parts: dict[str, ImageSamples] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self, part: str, samples: Sequence[Files], groups: Sequence[str], augmentation: Augmentation | None = None
    ) -> None:
        """Add a part, once all its files have been looked for.

        Raises:
            DataError: no sample; a file that is absent, unless `missing` is ``"present"`` and the sample has others.
        """
        check_missing(self.description, self.missing)
        if not samples:
            raise self.description.error(f"{self.folder}: expected samples of the part {part}, but found none.")
        paths = [{kind: self.folder / file for kind, file in files.items()} for files in samples]
        self.notes.extend(count_missing(self.description, part, paths, self.missing))
        read = partial(_read, self.description, self.readers, paths, self.missing, self.scaled)
        self.parts[part] = ImageSamples(self.description, read, groups, augmentation)

    def data(self, **changes: Any) -> Data:
        """Make the data set of the parts; raise `DataError` where a group is in both train and test."""
        shared = set(self.parts["train"].groups) & set(self.parts["test"].groups)
        if shared:
            raise self.description.error(
                f"{self.folder}: expected nothing in both train and test, but found {sorted(shared)[:3]}."
            )
        return self.description.with_samples(**self.parts, notes=tuple(self.notes), **changes)


def _read(
    description: Description,
    readers: Mapping[str, Reader],
    samples: Sequence[Mapping[str, Path]],
    missing: str,
    scaled: Sequence[str],
    index: int,
) -> Item:
    files = samples[index]
    images = {
        kind: reader(description, files[kind])
        for kind, reader in readers.items()
        if missing == "refuse" or files[kind].is_file()
    }
    label = images.pop("label")
    for kind in set(scaled) & set(images):
        images[kind] = interpolate(images[kind][None], tuple(label.shape), mode="nearest-exact")[0]
    return images, label


def find_folder(description: Description, root: str | Path | None, inside: str, folder: str | None = None) -> Path:
    """Find a data set's folder under `root` by a folder inside it.

    Raises:
        DataError: no root, or no such folder.
    """
    place = Path(root or "") / (folder or description.folder)
    if root is None:
        raise description.error(f"needs root=..., the folder that holds {folder or description.folder}/{inside}.")
    if not (place / inside).is_dir():
        raise description.error(f"expected the folder {place / inside}, but there is none.")
    return place
