"""DELIVER: simulated streets in colour, depth, events and lidar, in five weathers, with sensors that fail; 25 classes.

Verified in the authors' repository (https://github.com/jamycheung/DELIVER, its loader and README): folders, names of
files, classes, how labels and the four pictures are read. Recalled: numbers of samples (3,983 to train, 2,005 to
validate, 1,897 to test, front view) and the licence of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.images import IGNORED, check_label, read_pixels, read_three
from subsense.data.formats.pictures import Pictures, find_folder
from subsense.errors import closest

DESCRIPTION = Description(
    name="deliver",
    modalities={"rgb": "3 H W", "depth": "3 H W", "event": "3 H W", "lidar": "3 H W"},
    task="segmentation",
    class_names=(
        *("building", "fence", "other", "pedestrian", "pole", "road line", "road", "sidewalk", "vegetation", "cars"),
        *("wall", "traffic sign", "sky", "ground", "bridge", "rail track", "ground rail", "traffic light", "static"),
        *("dynamic", "water", "terrain", "two-wheeler", "bus", "truck"),
    ),
    metric="miou",
    ignore_index=IGNORED,
    source="https://github.com/jamycheung/DELIVER",
    licence="as stated at the source; the authors' code is Apache-2.0",
    citation="J. Zhang, R. Liu, H. Shi, K. Yang, S. Reiß, K. Peng, H. Fu, K. Wang, R. Stiefelhagen, Delivering "
    "Arbitrary-Modal Semantic Segmentation, CVPR 2023 (arXiv 2303.01480)",
    folder="DELIVER",
)
PLACES = {
    "rgb": ("img", "rgb"),
    "depth": ("hha", "depth"),
    "event": ("event", "event"),
    "lidar": ("lidar", "lidar"),
    "label": ("semantic", "semantic"),
}
"""Kind -> its folder, and the word in its files' names."""

PARTS = ("train", "val", "test")
CASES = (
    *("cloud", "fog", "night", "rain", "sun"),
    *("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres"),
)


def deliver(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    case: str | None = None,
    augment: Mapping[str, Any] | None = None,
    missing: str = "refuse",
) -> Data:
    """Load DELIVER as its authors publish it.

    Layout::

        DELIVER/
          img/cloud/train/MAP_10_point102/045050_rgb_front.png ...      colour
          hha/cloud/train/MAP_10_point102/045050_depth_front.png ...    depth as HHA (`depth/` itself isn't read)
          event/cloud/train/MAP_10_point102/045050_event_front.png ...  scaled to the size of the label, nearest pixel
          lidar/cloud/train/MAP_10_point102/045050_lidar_front.png ...
          semantic/cloud/train/MAP_10_point102/045050_semantic_front.png ...   first channel: 1 to 25, else
                                                                        it doesn't count

    After the weather (cloud, fog, night, rain, sun) comes the part: train, val or test. Modalities, all "3 H W": `rgb`,
    normalised by ImageNet's mean and deviation; `depth`, `event` and `lidar` in 0..1, one channel repeated. Pixels that
    don't count are 255: the loss has to leave them out (``cross_entropy: {ignore_index: 255}``).

    Args:
        root: the folder that holds `DELIVER/`.
        folder: what the data set's folder is called, where it isn't `DELIVER`.
        case: take only files with this in their path: a weather, or motionblur, overexposure, underexposure,
            lidarjitter, eventlowres.
        augment: options of `Augmentation`, for the training part. CMNeXt's are about
            ``{scale: [0.5, 2.0], crop: [1024, 1024], flip: 0.5, photometric: 0.2, blur: 0.2}``.
        missing: ``"refuse"``, or ``"present"``: a sample may lack files of some modalities, not its label.

    Raises:
        DataError: a file is absent or damaged, a part is empty, an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    if case is not None and case not in CASES:
        raise DESCRIPTION.error(f"expected case among {', '.join(CASES)}, but found {case!r}.{closest(case, CASES)}")
    place = find_folder(DESCRIPTION, root, "semantic", folder)
    readers = {"rgb": read_three, "depth": read_three, "event": read_three, "lidar": read_three, "label": _read_label}
    pictures = Pictures(DESCRIPTION, place, readers, missing, scaled=("event",))
    for part in PARTS:
        names = _names(place, part, case)
        files = [{kind: _file(kind, *name) for kind in PLACES} for name in names]
        scenes = [f"{scene}" for scene, _ in names]
        pictures.add(part, files, scenes, augmentation if part == "train" else None)
    return pictures.data()


def _names(place: Path, part: str, case: str | None) -> list[tuple[str, str]]:
    """List the samples of a part by their labels: weather/part/scene, and the file's name."""
    labels = sorted((place / "semantic").glob(f"*/{part}/*/*_semantic*.png"))
    names = [(label.parent.relative_to(place / "semantic").as_posix(), label.name) for label in labels]
    return [name for name in names if case is None or case in "/".join(name)]


def _file(kind: str, scene: str, label: str) -> str:
    folder, word = PLACES[kind]
    return f"{folder}/{scene}/{label.replace('_semantic', f'_{word}')}"


def _read_label(description: Description, path: Path) -> Tensor:
    """Read 1 to 25 from the first channel; 0 and 255 don't count."""
    pixels = read_pixels(description, path)
    label = torch.from_numpy(np.array(pixels if pixels.ndim == 2 else pixels[..., 0], np.int64))
    return check_label(description, torch.where((label == 0) | (label == IGNORED), IGNORED, label - 1), path)
