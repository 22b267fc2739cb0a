"""KITTI road: where a car can drive, by a camera and a lidar whose points are projected into its picture.

Verified in public loaders: names of the three kinds of scenes, folders training/image_2 and gt_image_2, lines of the
calibration and how they project, points as four float32 (the benchmark's own readmes). Recalled: that velodyne and
calib lie beside them under the same names, colours of the ground truth, 289 training pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description, Item, check_missing, count_missing
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.images import IGNORED, ImageSamples, read_pixels, read_three
from subsense.data.formats.lidar import project, read_points, read_projection
from subsense.data.formats.pictures import find_folder

DESCRIPTION = Description(
    name="kitti-road",
    modalities={"rgb": "3 H W", "lidar": "3 H W"},
    task="segmentation",
    class_names=("not road", "road"),
    metric="miou",
    ignore_index=IGNORED,
    source="https://www.cvlibs.net/datasets/kitti/eval_road.php",
    licence="CC BY-NC-SA 3.0",
    citation="J. Fritsch, T. Kuehnl, A. Geiger, A New Performance Measure and Evaluation Benchmark for Road Detection "
    "Algorithms, ITSC 2013",
    folder="data_road",
)
ROAD, OTHER = (255, 0, 255), (255, 0, 0)
SIZE = (352, 1216)


def kitti_road(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    augment: Mapping[str, Any] | None = None,
    missing: str = "refuse",
) -> Data:
    """Load KITTI's road benchmark with its laser scans.

    Layout, as the benchmark's base kit and its velodyne kit unpack into one folder::

        data_road/
          training/image_2/um_000000.png ...           colour; um, umm, uu: kinds of roads
          training/gt_image_2/um_road_000000.png ...   magenta road, red other, black doesn't count; `lane` isn't read
          training/calib/um_000000.txt ...             P2, R0_rect, Tr_velo_to_cam
          training/velodyne/um_000000.bin ...          four float32 a point: x, y, z, reflectance

    `testing/` has no ground truth, so a share of the training pictures tests, drawn from `seed` for each kind of road:
    no published split. Modalities: `rgb` "3 H W", normalised by ImageNet's mean and deviation; `lidar` "3 H W", the
    points where the camera sees them: depth in units of 80 m, height from -3 to 3 m, reflectance, each in 0..1; 0 where
    no point is. Pictures differ a little in size; the lower 352 rows and the left 1216 columns of each are taken.

    Args:
        root: the folder that holds `data_road/`.
        folder: what the data set's folder is called, where it isn't that.
        test_share: of the pictures of each kind of road, which test.
        seed: draws the split.
        augment: options of `Augmentation`, for the training part.
        missing: ``"refuse"``, or ``"present"``: a sample may lack its picture or its scan, not both.

    Raises:
        DataError: a file is absent or damaged, a picture is smaller than what is taken, an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    check_missing(DESCRIPTION, missing)
    if not 0 < test_share < 1:
        raise DESCRIPTION.error(f"expected test_share between 0 and 1, but got {test_share!r}.")
    place = find_folder(DESCRIPTION, root, "training/gt_image_2", folder) / "training"
    names = sorted(path.stem.replace("_road", "") for path in (place / "gt_image_2").glob("*_road_*.png"))
    parts = _split(place, names, test_share, seed)
    notes: list[str] = []
    for part, some in parts.items():
        files = [{kind: path for kind, path in _files(place, name).items() if kind != "calib"} for name in some]
        notes += count_missing(DESCRIPTION, part, files, missing)
    train, test = (
        ImageSamples(DESCRIPTION, partial(_read, place, some, missing), some, augmentation if part == "train" else None)
        for part, some in parts.items()
    )
    return DESCRIPTION.with_samples(train, test, notes=tuple(notes))


def _split(place: Path, names: list[str], share: float, seed: int) -> dict[str, list[str]]:
    draw = np.random.default_rng(seed)
    testing: set[str] = set()
    for kind in sorted({name.partition("_")[0] for name in names}):
        some = [name for name in names if name.partition("_")[0] == kind]
        testing |= set(draw.permutation(some)[: round(share * len(some))].tolist())
    parts = {"train": [name for name in names if name not in testing], "test": sorted(testing)}
    if not all(parts.values()):
        raise DESCRIPTION.error(f"{place}: expected pictures to train and to test, but found {len(names)} in all.")
    return parts


def _files(place: Path, name: str) -> dict[str, Path]:
    kind, _, number = name.partition("_")
    return {
        "rgb": place / f"image_2/{name}.png",
        "lidar": place / f"velodyne/{name}.bin",
        "calib": place / f"calib/{name}.txt",
        "label": place / f"gt_image_2/{kind}_road_{number}.png",
    }


def _read(place: Path, names: list[str], missing: str, index: int) -> Item:
    files = _files(place, names[index])
    label = _read_label(files["label"])
    inputs: dict[str, Tensor] = {}
    if missing == "refuse" or files["rgb"].is_file():
        inputs["rgb"] = _cut(read_three(DESCRIPTION, files["rgb"]), files["rgb"])
    if missing == "refuse" or files["lidar"].is_file():
        projection = read_projection(DESCRIPTION, files["calib"])
        points = read_points(DESCRIPTION, files["lidar"])
        inputs["lidar"] = _cut(project(points, projection, *label.shape), files["lidar"])
    return inputs, _cut(label, files["label"])


def _cut(image: Tensor, path: Path) -> Tensor:
    """Take the lower rows and the left columns, which all pictures have."""
    height, width = SIZE
    if image.shape[-2] < height or image.shape[-1] < width:
        raise DESCRIPTION.error(
            f"{path}: expected at least {height} x {width} pixels, but found {tuple(image.shape[-2:])}."
        )
    return image[..., image.shape[-2] - height :, :width]


def _read_label(path: Path) -> Tensor:
    pixels = read_pixels(DESCRIPTION, path)
    if pixels.ndim != 3:
        raise DESCRIPTION.error(f"{path}: expected colours, magenta, red and black, but found {pixels.shape}.")
    label = np.full(pixels.shape[:2], IGNORED, np.int64)
    for number, colour in enumerate((OTHER, ROAD)):
        label[(pixels[..., :3] == colour).all(-1)] = number
    if (label == IGNORED).all():
        raise DESCRIPTION.error(f"{path}: expected pixels that are magenta or red, but found none.")
    return torch.from_numpy(label)
