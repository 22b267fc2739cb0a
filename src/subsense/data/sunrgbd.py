"""SUN RGB-D: rooms in colour and depth by four kinds of cameras; 37 classes, in a layout made for segmentation.

Verified in that layout's README (https://github.com/chrischoy/SUN_RGBD) and the one that it is made of
(https://github.com/ankurhanda/sunrgbd-meta-data): folders, names, lists of three paths a line, 5,285 to train and 5,050
to test, classes in a public loader. Recalled: that 0 in `label37` is unlabelled, and how the bits of depth are turned
(the data set's own toolbox, read3dPoints). One in two public loaders scales depth by 10,000: hence the options.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description, locate, read_lines
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.images import IGNORED, check_label, read_pixels, read_three
from subsense.data.formats.pictures import Files, Pictures

DESCRIPTION = Description(
    name="sunrgbd",
    modalities={"rgb": "3 H W", "depth": "3 H W"},
    task="segmentation",
    class_names=(
        *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
        *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
        *("ceiling", "books", "fridge", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
        *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    ),
    metric="miou",
    ignore_index=IGNORED,
    source="https://rgbd.cs.princeton.edu, reorganised by https://github.com/chrischoy/SUN_RGBD",
    licence="as stated at the source",
    citation="S. Song, S. P. Lichtenberg, J. Xiao, SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite, CVPR 2015",
    folder="SUN_RGBD",
)
KINDS = ("rgb", "depth", "label")
LISTS = {"train": "train37.txt", "test": "test37.txt"}
TURN = 3
"""Bits by which the data set's files turn depth to the left."""


def sunrgbd(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    turned: bool = False,
    units_per_metre: float = 10000.0,
    farthest: float = 8.0,
    augment: Mapping[str, Any] | None = None,
    missing: str = "refuse",
) -> Data:
    """Load SUN RGB-D.

    Layout::

        SUN_RGBD/
          image/train/img-000001.jpg ...              colour
          depth/train/00000001.png ...                16 bits, 0 where nothing was measured
          label37/train/img37labels-000001.png ...    1 to 37; 0 doesn't count
          image/test/... depth/test/... label37/test/...
          train37.txt, test37.txt                     three paths a line: image, depth, label

    Modalities, both "3 H W": `rgb`, normalised by ImageNet's mean and deviation; `depth`, its one channel repeated, in
    units of `farthest`, at most 1, 0 where nothing was measured. (HHA needs each picture's camera, which this layout
    leaves out.) Pictures differ in size: crop them (``augment: {crop: [480, 480]}``), or take batches of one.

    Args:
        root: the folder that holds `SUN_RGBD/`.
        folder: what the data set's folder is called, where it isn't that.
        turned: whether the bits of depth are turned, as in the data set's own files (which have 1,000 units per metre).
        units_per_metre: what the numbers in `depth/` mean.
        farthest: in metres.
        augment: options of `Augmentation`, for the training part.
        missing: ``"refuse"``, or ``"present"``: a sample may lack its colour or its depth, not its label.

    Raises:
        DataError: a file is absent or damaged, a line of a list has not three paths, an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    if not (units_per_metre > 0 and farthest > 0):
        raise DESCRIPTION.error(
            f"expected units_per_metre and farthest above 0, but got {units_per_metre}, {farthest}."
        )
    place = locate(DESCRIPTION, root, list(LISTS.values()), folder)
    depth = partial(_read_depth, turned=turned, most=units_per_metre * farthest)
    pictures = Pictures(DESCRIPTION, place, {"rgb": read_three, "depth": depth, "label": _read_label}, missing)
    for part, file in LISTS.items():
        files = [_files(place / file, number, line) for number, line in enumerate(read_lines(place / file), 1)]
        pictures.add(part, files, [one["rgb"] for one in files], augmentation if part == "train" else None)
    return pictures.data()


def _files(path: Path, number: int, line: str) -> Files:
    words = line.split()
    if len(words) != len(KINDS):
        raise DESCRIPTION.error(f"{path}, line {number}: expected paths of image, depth and label, but found {line!r}.")
    return dict(zip(KINDS, words, strict=True))


def _read_depth(description: Description, path: Path, turned: bool, most: float) -> Tensor:
    pixels = read_pixels(description, path)
    if pixels.ndim != 2 or pixels.dtype == np.uint8:
        raise description.error(f"{path}: expected one channel of 16 bits, but found {pixels.dtype} {pixels.shape}.")
    numbers = pixels.astype(np.int64)
    if turned:
        numbers = ((numbers >> TURN) | (numbers << (16 - TURN))) & 0xFFFF
    return torch.from_numpy((numbers / most).astype(np.float32)).clamp(max=1).expand(3, -1, -1)


def _read_label(description: Description, path: Path) -> Tensor:
    """Read 1 to 37; 0 doesn't count."""
    pixels = read_pixels(description, path)
    if pixels.ndim != 2:
        raise description.error(f"{path}: expected one channel of class numbers, but found {pixels.shape}.")
    label = torch.from_numpy(pixels.astype(np.int64))
    return check_label(description, torch.where((label == 0) | (label == IGNORED), IGNORED, label - 1), path)
