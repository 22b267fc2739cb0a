"""PST900: underground, a robot's view in colour and thermal infrared; four kinds of things to find, and background.

Verified in the authors' repository (https://github.com/ShreyasSkandanS/pst900_thermal_rgb, README): folders, bits of
each kind of picture, size, labels 0 to 4, 894 pairs. Recalled: that 597 train and 297 test, and the order of classes,
which other public loaders give as here. (The README calls `test/` the train split in one place, and the reverse.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subsense.data.base import Data, Description
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.images import IGNORED, read_label, read_three
from subsense.data.formats.pictures import Pictures, find_folder

DESCRIPTION = Description(
    name="pst900",
    modalities={"rgb": "3 H W", "thermal": "3 H W"},
    task="segmentation",
    class_names=("background", "fire extinguisher", "backpack", "hand drill", "survivor"),
    metric="miou",
    ignore_index=IGNORED,
    source="https://github.com/ShreyasSkandanS/pst900_thermal_rgb",
    licence="as stated at the source",
    citation="S. S. Shivakumar, N. Rodrigues, A. Zhou, I. D. Miller, V. Kumar, C. J. Taylor, PST900: RGB-Thermal "
    "Calibration, Dataset and Segmentation Network, ICRA 2020 (arXiv 1909.10980)",
    folder="PST900_RGBT_Dataset",
)


def pst900(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    raw: bool = False,
    augment: Mapping[str, Any] | None = None,
    missing: str = "refuse",
) -> Data:
    """Load PST900's pairs of pictures.

    Layout, as published::

        PST900_RGBT_Dataset/
          train/rgb/31_bag1a_rect_rgb_frame0000000007.png ...   colour, 720 x 1280
          train/thermal/...                                     8 bits, as the camera shows it
          train/thermal_raw/...                                 16 bits, read in its place if asked for
          train/labels/...                                      0 background, 1 fire extinguisher, 2 backpack,
                                                                3 hand drill, 4 survivor
          test/...                                              the same

    `train/depth/` isn't read. Modalities, both "3 H W": `rgb`, normalised by ImageNet's mean and deviation; `thermal`,
    its one channel repeated, in 0..1. Thermal pictures have holes, which are 0, where the cameras' views differ.
    Background is class 0 and counts like any other; the metric `miou-labelled` leaves it out.

    Args:
        root: the folder that holds `PST900_RGBT_Dataset/`.
        folder: what the data set's folder is called, where it isn't that.
        raw: whether to read `thermal_raw/`.
        augment: options of `Augmentation`, for the training part.
        missing: ``"refuse"``, or ``"present"``: a sample may lack one of its pictures, not its label.

    Raises:
        DataError: a file is absent or damaged, a part is empty, a name is in both parts, an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    place = find_folder(DESCRIPTION, root, "train/labels", folder)
    pictures = Pictures(DESCRIPTION, place, {"rgb": read_three, "thermal": read_three, "label": read_label}, missing)
    kinds = {"rgb": "rgb", "thermal": "thermal_raw" if raw else "thermal", "label": "labels"}
    for part in ("train", "test"):
        names = sorted(path.name for path in (place / part / "labels").glob("*.png"))
        files = [{kind: f"{part}/{inside}/{name}" for kind, inside in kinds.items()} for name in names]
        pictures.add(part, files, names, augmentation if part == "train" else None)
    return pictures.data()
