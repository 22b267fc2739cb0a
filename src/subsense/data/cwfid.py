"""CWFID: carrots and weeds in a field, photographed from a robot in red and near infrared light.

60 scenes, registered channels, each pixel labelled soil, crop or weed (92.6, 1.6 and 5.8 % of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from subsense.data.base import Data, Description, Samples, locate, standardise
from subsense.data.formats.images import locate_pictures, open_picture
from subsense.errors import DataError

CHANNELS = ("red", "nir")
SIZE = (160, 216)
DESCRIPTION = Description(
    name="cwfid",
    modalities=dict.fromkeys(CHANNELS, f"1 {SIZE[0]} {SIZE[1]}"),
    task="segmentation",
    class_names=("soil", "crop", "weed"),
    metric="miou",
    source="https://github.com/cwfid/dataset",
    licence="non-commercial research use",
    citation="S. Haug and J. Ostermann, A Crop/Weed Field Image Dataset for the Evaluation of Computer Vision "
    "Based Precision Agriculture Tasks, ECCV Workshops (CVPPP) 2014",
    folder="cwfid",
)


def cwfid(
    root: str | Path | None = None, *, size: Sequence[int] = SIZE, mirrored: bool = False, missing: str = "refuse"
) -> Data:
    """Load the scenes of `root/cwfid/`: 39 to train, 21 to test.

    Layout::

        cwfid/
          red/001.png ... 060.png     8 bits
          nir/001.png ... 060.png     8 bits
          label/001.png ... 060.png   0 soil, 1 crop, 2 weed
          train.txt, test.txt         the scenes of each part: 001 and so on

    Each channel is standardised with mean and deviation of the training scenes alone.

    Args:
        root: the folder that holds `cwfid/`.
        size: height and width in pixels that images (area-averaged) and labels (nearest) are resized to. The files are
            (320, 432); the default, a quarter of the pixels, lets a small network train in minutes on two cores.
        mirrored: add to the 39 training scenes their mirror images, left to right, upside down and both: 156 samples.

        missing: ``"refuse"``, or ``"present"``: a scene may lack one of its channels.

    Raises:
        DataError: a file is absent or damaged, a scene is in both parts, a size is not positive.
    """
    _check_size(size)
    folder = locate(DESCRIPTION, root, ["train.txt", "test.txt"])
    train, test = _scenes(folder)
    kinds = {kind: f"{kind}/{{}}.png" for kind in (*CHANNELS, "label")}
    notes = locate_pictures(DESCRIPTION, folder, kinds, {"train": train, "test": test}, missing)
    present = {name: tuple(_present(folder / name, scenes) for scenes in (train, test)) for name in CHANNELS}
    images = {name: _standardised(folder / name, train, test, size, present[name]) for name in CHANNELS}
    training, testing = (
        Samples(
            {name: parts[number] for name, parts in images.items()},
            _labels(folder / "label", scenes, size),
            scenes,
            {name: parts[number] for name, parts in present.items()},
        )
        for number, scenes in enumerate((train, test))
    )
    return DESCRIPTION.with_samples(
        _with_mirror_images(training) if mirrored else training,
        testing,
        modalities=dict.fromkeys(CHANNELS, f"1 {size[0]} {size[1]}"),
        notes=notes,
    )


def _present(folder: Path, scenes: list[str]) -> Tensor:
    """Say which scenes have a channel: bool (num_scenes,)."""
    return torch.tensor([(folder / f"{scene}.png").is_file() for scene in scenes])


def _with_mirror_images(samples: Samples) -> Samples:
    """Add every sample mirrored about each axis of the image and about both; the groups stay those of the scenes."""
    axes: list[tuple[int, ...]] = [(), (-1,), (-2,), (-2, -1)]
    inputs = {name: torch.cat([tensor.flip(axis) for axis in axes]) for name, tensor in samples.inputs.items()}
    present = {name: there.repeat(len(axes)) for name, there in samples.present.items()}
    targets = torch.cat([samples.targets.flip(axis) for axis in axes])
    return Samples(inputs, targets, samples.groups * len(axes), present)


def _check_size(size: Sequence[int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"cwfid: expected size=(height, width), both at least 1, but got {size!r}.")


def _scenes(folder: Path) -> tuple[list[str], list[str]]:
    train, test = (_words(folder / file) for file in ("train.txt", "test.txt"))
    if shared := set(train) & set(test):
        raise DataError(f"{folder}: expected no scene in both train.txt and test.txt, but found {sorted(shared)}.")
    return train, test


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").split()


def _standardised(
    folder: Path, train: list[str], test: list[str], size: Sequence[int], present: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Read one channel as (num_scenes, 1, H, W) for both parts; zeros where it is absent."""
    images = torch.zeros(len(train + test), 1, *size)
    there = torch.cat(present)
    scenes = [scene for scene, has in zip(train + test, there.tolist(), strict=True) if has]
    images[there] = _stack(folder, scenes, size, Image.Resampling.BOX).float().unsqueeze(1)
    return standardise(images[: len(train)], images[len(train) :], axes=(0, 2, 3), present=(present[0], present[1]))


def _labels(folder: Path, scenes: list[str], size: Sequence[int]) -> Tensor:
    labels = _stack(folder, scenes, size, Image.Resampling.NEAREST).long()
    if int(labels.max()) >= DESCRIPTION.num_classes:
        raise DataError(f"{folder}: expected labels 0 to {DESCRIPTION.num_classes - 1}, but found {int(labels.max())}.")
    return labels


def _stack(folder: Path, scenes: list[str], size: Sequence[int], resampling: Image.Resampling) -> Tensor:
    return torch.stack([_read(folder / f"{scene}.png", size, resampling) for scene in scenes])


def _read(path: Path, size: Sequence[int], resampling: Image.Resampling) -> Tensor:
    """Read a grey image as uint8 (H, W), resized."""
    with open_picture(DESCRIPTION, path) as image:
        grey = image.convert("L").resize((size[1], size[0]), resampling)
    return torch.from_numpy(np.array(grey))
