"""NYUDv2: rooms by a Kinect, in colour and depth; 40 classes.

1,449 pictures of 480 x 640 pixels with dense labels; the standard split: 795 to train, 654 to test.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from subsense.data.base import Data, Description, Item, check_missing, locate
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.hha import Camera, encode_hha
from subsense.data.formats.images import (
    IGNORED,
    ImageSamples,
    check_label,
    locate_pictures,
    read_parts,
    read_pixels,
    read_three,
)
from subsense.data.formats.matlab import read_matlab
from subsense.support.files import write_atomically

DESCRIPTION = Description(
    name="nyudv2",
    modalities={"rgb": "3 H W", "depth": "3 H W"},
    task="segmentation",
    class_names=(
        *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
        *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
        *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
        *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture"),
        "other prop",
    ),
    metric="miou",
    ignore_index=IGNORED,
    source="https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
    licence="as stated at the source",
    citation="N. Silberman, D. Hoiem, P. Kohli, R. Fergus, Indoor Segmentation and Support Inference from RGBD Images, "
    "ECCV 2012; 40 classes: S. Gupta, P. Arbelaez, J. Malik, CVPR 2013",
    folder="nyudv2",
)
CAMERA = Camera(fx=518.85790117450188, fy=519.46961112127485, cx=325.58244941119034, cy=253.73616633400465)
"""The colour camera, as calibrated in the data set's toolbox; depth is projected onto its pictures."""

LABELLED, SPLITS, CLASSES = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
LISTS = {"train": "train.txt", "test": "test.txt"}


def nyudv2(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    augment: Mapping[str, Any] | None = None,
    units_per_metre: float = 1000.0,
    cache: str | Path | None = None,
    missing: str = "refuse",
) -> Data:
    """Load NYUDv2 in either of its two forms.

    Layout, as published (needs h5py: ``pip install 'subsense[nyudv2]'``)::

        nyudv2/
          nyu_depth_v2_labeled.mat   images, depths, rawDepths, labels (894 classes), scenes
          splits.mat                 trainNdxs (795), testNdxs (654), counted from 1
          classMapping40.mat         mapClass: the one of 40 classes for each of the 894

    `splits.mat` is published beside the data; `classMapping40.mat` with Gupta et al., CVPR 2013, and in
    https://github.com/ankurhanda/nyuv2-meta-data.

    Layout, as CMNeXt's loader has it, where there is no such file::

        nyudv2/
          RGB/0.jpg ...              or .png
          HHA/0.jpg ...              or .png; where there is no such folder, it is computed from
          Depth/0.png ...            16 bits, `units_per_metre`; 0 where nothing was measured
          Label/0.png ...            1 to 40; 0 and 255 don't count
          train.txt, test.txt        one name a line: 0

    Modalities, both "3 H W": `rgb`, normalised by ImageNet's mean and deviation; `depth`, as HHA in 0..1: disparity,
    height above the floor, angle with gravity (`encode_hha`). Pixels without label are 255: the loss has to leave them
    out (``cross_entropy: {ignore_index: 255}``).

    Args:
        root: the folder that holds `nyudv2/`.
        folder: what the data set's folder is called, where it isn't `nyudv2`.
        augment: options of `Augmentation`, for the training part. CMNeXt's are
            ``{scale: [0.5, 2.0], crop: [480, 640], flip: 0.5, photometric: 0.2, blur: 0.2}``.
        units_per_metre: what the numbers in `Depth/` mean; 1000 are millimetres.
        cache: a folder in which computed HHA is kept, as png; empty it when `units_per_metre` changes. None: HHA is
            computed at every reading, which takes most of a second.
        missing: ``"refuse"``, or ``"present"``: in the second layout a sample may lack its colour or its depth.

    Raises:
        DataError: a file is absent or damaged, or h5py is; a sample is in both train and test; an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    if not units_per_metre > 0:
        raise DESCRIPTION.error(f"units_per_metre: expected a number above 0, but found {units_per_metre!r}.")
    kept = None if cache is None else Path(cache)
    inside = Path(root or "") / (folder or DESCRIPTION.folder)
    check_missing(DESCRIPTION, missing)
    notes: tuple[str, ...] = ()
    if root is None or (inside / LABELLED).exists() or not (inside / "RGB").is_dir():
        train, test = _published(locate(DESCRIPTION, root, [LABELLED, SPLITS, CLASSES], folder), kept)
    else:
        train, test, notes = _folders(
            locate(DESCRIPTION, root, list(LISTS.values()), folder), kept, units_per_metre, missing
        )
    return DESCRIPTION.with_samples(
        ImageSamples(DESCRIPTION, *train, augmentation=augmentation), ImageSamples(DESCRIPTION, *test), notes=notes
    )


_Part = tuple[partial[Item], list[str]]
"""What reads a sample by its index, and the groups of all."""

_Depth = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Depth in metres (H, W), and where it was measured."""


def _hha(cache: Path | None, name: str, read_depth: Callable[[], _Depth]) -> Tensor:
    """Give a picture's depth as HHA (3, H, W) in 0..1: from the cache where it is there, else computed and kept."""
    kept = None if cache is None else cache / f"{name}.png"
    if kept is not None and kept.is_file():
        return read_three(DESCRIPTION, kept)
    depth, measured = read_depth()
    image = encode_hha(depth, CAMERA, measured)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        write_atomically(kept, png.getvalue())
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)


# ---- the published file


def _published(place: Path, cache: Path | None) -> tuple[_Part, _Part]:
    """Read split, classes and scenes; the pictures stay in the file."""
    classes = _read_matrix(place / CLASSES, "mapClass")
    if not len(classes) or classes.min() < 1 or classes.max() > DESCRIPTION.num_classes:
        raise DESCRIPTION.error(f"{place / CLASSES}: expected mapClass to give 1 to 40, but found {classes}.")
    mapping = torch.from_numpy(np.concatenate([[IGNORED], classes - 1]))
    scenes = _read_scenes(place / LABELLED)
    train, test = (_read_matrix(place / SPLITS, key) - 1 for key in ("trainNdxs", "testNdxs"))
    every = np.concatenate([train, test])
    if len(set(every)) < len(every) or every.min() < 0 or every.max() >= len(scenes):
        raise DESCRIPTION.error(f"{place / SPLITS}: expected each of 1 to {len(scenes)} at most once, but it isn't so.")

    def part(rows: list[int]) -> _Part:
        return partial(_read_published, place / LABELLED, mapping, cache, rows), [scenes[row] for row in rows]

    return part(train.tolist()), part(test.tolist())


def _read_published(file: Path, mapping: Tensor, cache: Path | None, rows: list[int], index: int) -> Item:
    row = rows[index]
    with _open(file) as matrices:
        colour, label = matrices["images"][row], matrices["labels"][row]
    labels = torch.from_numpy(label.T.astype(np.int64))
    if int(labels.max()) >= len(mapping):
        raise DESCRIPTION.error(f"{file}: expected labels up to {len(mapping) - 1}, but found {int(labels.max())}.")
    rgb = torch.from_numpy(colour.transpose(0, 2, 1).astype(np.float32) / 255)
    return {"rgb": rgb, "depth": _hha(cache, f"{row + 1:04}", partial(_read_depths, file, row))}, mapping[labels]


def _read_depths(file: Path, row: int) -> _Depth:
    """Read depth in metres with its holes filled in, and where it was measured."""
    with _open(file) as matrices:
        return matrices["depths"][row].T.astype(np.float64), matrices["rawDepths"][row].T > 0


def _read_scenes(file: Path) -> list[str]:
    """Name the scene of each picture, and check that the file has what will be read."""
    with _open(file) as matrices:
        for name in ("images", "depths", "rawDepths", "labels", "scenes"):
            if name not in matrices:
                raise DESCRIPTION.error(f"{file}: expected an array {name!r}, but there is none.")
        return ["".join(map(chr, matrices[place][:].flatten())) for place in matrices["scenes"][:].flatten()]


def _open(file: Path) -> Any:
    """Open a Matlab file of version 7.3, which is HDF5."""
    try:
        import h5py
    except ImportError as error:
        wanted = f"reading {file} needs h5py: pip install 'subsense[nyudv2]'."
        raise DESCRIPTION.error(wanted) from error
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise DESCRIPTION.error(f"cannot read {file}: {error}.") from error


def _read_matrix(file: Path, name: str) -> NDArray[np.int64]:
    """Read whole numbers from an older Matlab file, as a row."""
    array = read_matlab(DESCRIPTION, file, name)
    if not np.issubdtype(array.dtype, np.number):
        raise DESCRIPTION.error(f"{file}: expected numbers in {name}, but found {array.dtype}.")
    return array.astype(np.int64).flatten()


# ---- folders of pictures


def _folders(place: Path, cache: Path | None, units: float, missing: str) -> tuple[_Part, _Part, tuple[str, ...]]:
    names = read_parts(DESCRIPTION, place, LISTS)
    kinds = {"rgb": "RGB", "depth": "HHA" if (place / "HHA").is_dir() else "Depth", "label": "Label"}
    files = {kind: f"{at}/{{}}{_ending(place / at, names['train'] + names['test'])}" for kind, at in kinds.items()}
    notes = locate_pictures(DESCRIPTION, place, files, names, missing)
    read = partial(_read_pictures, place, files, cache, units, missing)
    return (partial(read, names["train"]), names["train"]), (partial(read, names["test"]), names["test"]), notes


def _ending(folder: Path, names: list[str]) -> str:
    found = (ending for name in names for ending in (".jpg", ".png") if (folder / f"{name}{ending}").is_file())
    return next(found, ".png")


def _read_pictures(
    place: Path, files: Mapping[str, str], cache: Path | None, units: float, missing: str, names: list[str], index: int
) -> Item:
    rgb, depth, label = (place / files[kind].format(names[index]) for kind in ("rgb", "depth", "label"))
    images = {}
    if missing == "refuse" or rgb.is_file():
        images["rgb"] = read_three(DESCRIPTION, rgb)
    if missing == "refuse" or depth.is_file():
        images["depth"] = (
            read_three(DESCRIPTION, depth)
            if files["depth"].startswith("HHA/")
            else _hha(cache, names[index], partial(_read_depth, depth, units))
        )
    return images, _read_forty(label)


def _read_depth(path: Path, units: float) -> _Depth:
    pixels = read_pixels(DESCRIPTION, path)
    if pixels.ndim != 2 or pixels.dtype == np.uint8:
        raise DESCRIPTION.error(f"{path}: expected one channel of 16 bits, but found {pixels.dtype} {pixels.shape}.")
    return pixels / units, pixels > 0


def _read_forty(path: Path) -> Tensor:
    """Read a label picture of 1 to 40, where 0 and 255 don't count."""
    pixels = read_pixels(DESCRIPTION, path)
    if pixels.ndim != 2:
        raise DESCRIPTION.error(f"{path}: expected one channel of class numbers, but found {pixels.shape}.")
    label = torch.from_numpy(pixels.astype(np.int64))
    return check_label(DESCRIPTION, torch.where((label == 0) | (label == 255), IGNORED, label - 1), path)
