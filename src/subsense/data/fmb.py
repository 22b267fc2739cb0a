"""FMB: streets by day, night, fog and rain in colour and thermal infrared; 14 classes and what has no label.

Verified in public loaders and READMEs that read it: folders train/ and test/ with Visible, Infrared, Label and color in
each; 15 numbers in the labels, 0 without label, their order; 1,220 pairs to train. Recalled: 280 to test, 600 x 800
pixels. The authors' repository (https://github.com/JinyuanLiu-CV/SegMiF) says nothing of the layout.
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
    name="fmb",
    modalities={"rgb": "3 H W", "thermal": "3 H W"},
    task="segmentation",
    class_names=(
        *("unlabelled", "road", "sidewalk", "building", "lamp", "sign", "vegetation", "sky", "person", "car"),
        *("truck", "bus", "motorcycle", "bicycle", "pole"),
    ),
    metric="miou-labelled",
    ignore_index=IGNORED,
    source="https://github.com/JinyuanLiu-CV/SegMiF",
    licence="as stated at the source",
    citation="J. Liu, Z. Liu, G. Wu, L. Ma, R. Liu, W. Zhong, Z. Luo, X. Fan, Multi-interactive Feature Learning and a "
    "Full-time Multi-modality Benchmark for Image Fusion and Segmentation, ICCV 2023 (arXiv 2308.02097)",
    folder="FMB",
)
KINDS = {"rgb": "Visible", "thermal": "Infrared", "label": "Label"}


def fmb(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    augment: Mapping[str, Any] | None = None,
    missing: str = "refuse",
) -> Data:
    """Load FMB's pairs of pictures.

    Layout::

        FMB/
          train/Visible/00001.png ...    colour
          train/Infrared/00001.png ...   thermal
          train/Label/00001.png ...      0 unlabelled, 1 road, 2 sidewalk, 3 building, 4 lamp, 5 sign, 6 vegetation,
                                         7 sky, 8 person, 9 car, 10 truck, 11 bus, 12 motorcycle, 13 bicycle, 14 pole
          test/...                       the same

    `color/`, the labels as colours, isn't read. Modalities, both "3 H W": `rgb`, normalised by ImageNet's mean and
    deviation; `thermal`, its one channel repeated, in 0..1. The measure `miou-labelled` leaves class 0 out of the mean.

    Args:
        root: the folder that holds `FMB/`.
        folder: what the data set's folder is called, where it isn't `FMB`.
        augment: options of `Augmentation`, for the training part.
        missing: ``"refuse"``, or ``"present"``: a sample may lack one of its pictures, not its label.

    Raises:
        DataError: a file is absent or damaged, a part is empty, a name is in both parts, an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    place = find_folder(DESCRIPTION, root, "train/Label", folder)
    pictures = Pictures(DESCRIPTION, place, {"rgb": read_three, "thermal": read_three, "label": read_label}, missing)
    for part in ("train", "test"):
        names = sorted(path.name for path in (place / part / "Label").glob("*.png"))
        files = [{kind: f"{part}/{inside}/{name}" for kind, inside in KINDS.items()} for name in names]
        pictures.add(part, files, [f"{part}/{name}" for name in names], augmentation if part == "train" else None)
    return pictures.data()
