"""MCubeS: materials of outdoor scenes by colour, polarisation (angle and degree) and near infrared; 20 classes.

500 sets of images, 302 to train, 96 to validate, 102 to test in the published lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description, Item, locate
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.images import IGNORED, ImageSamples, locate_pictures, read_label, read_parts, read_three

DESCRIPTION = Description(
    name="mcubes",
    modalities={"rgb": "3 H W", "aolp": "3 H W", "dolp": "3 H W", "nir": "3 H W"},
    task="segmentation",
    class_names=(
        *("asphalt", "concrete", "metal", "road marking", "fabric", "glass", "plaster", "plastic", "rubber", "sand"),
        *("gravel", "ceramic", "cobblestone", "brick", "grass", "wood", "leaf", "water", "human", "sky"),
    ),
    metric="miou",
    ignore_index=IGNORED,
    source="https://github.com/kyotovision-public/multimodal-material-segmentation",
    licence="as stated at the source",
    citation="Y. Liang, R. Wakaki, S. Nobuhara, K. Nishino, Multimodal Material Segmentation, CVPR 2022",
    folder="mcubes",
)
LISTS = {part: f"list_folder/{part}.txt" for part in ("train", "val", "test")}
FILES = {
    "rgb": "polL_color/{}.png",
    "aolp_sin": "polL_aolp_sin/{}.npy",
    "aolp_cos": "polL_aolp_cos/{}.npy",
    "dolp": "polL_dolp/{}.npy",
    "nir": "NIR_warped/{}.png",
    "label": "GT/{}.png",
}
NIR_BEGINS = 192
"""The columns to the left of it are not seen by the near-infrared camera; the published loaders cut them off."""


def mcubes(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    augment: Mapping[str, Any] | None = None,
    missing: str = "refuse",
) -> Data:
    """Load MCubeS.

    Layout, as published (the folder is called `multimodal_dataset` there: say ``folder: multimodal_dataset``)::

        mcubes/
          polL_color/NAME.png                         colour, 1024 x 1224
          polL_aolp_sin/NAME.npy, polL_aolp_cos/NAME.npy   sine and cosine of the angle of linear polarisation
          polL_dolp/NAME.npy                          degree of linear polarisation
          NIR_warped/NAME.png                         near infrared, one channel
          GT/NAME.png                                 classes 0 to 19; 255 doesn't count
          list_folder/train.txt, val.txt, test.txt    one NAME a line: outscene1208_2_0000000150

    What else is published there (SS, SSGT4MS, NIR_warped_mask) is not read.

    Modalities, all "3 H W", as CMNeXt's loader makes them: `rgb`, normalised by ImageNet's mean and deviation; `aolp`,
    sine, cosine and sine again; `dolp` and `nir`, one channel repeated. The leftmost 192 columns, which the
    near-infrared camera doesn't see, are cut off; validation and test pictures are cut to the square in the middle,
    1024 x 1024. Whether parts share a scene isn't known: neighbouring frames may be in two of them.

    Args:
        root: the folder that holds `mcubes/`.
        folder: what the data set's folder is called, where it isn't `mcubes`.
        augment: options of `Augmentation`, for the training part. CMNeXt's are about
            ``{scale: [0.25, 1.0], crop: [512, 512], flip: 0.5, blur: 0.5}`` (it blurs near infrared too). Without any,
            training pictures are cut like the others.
        missing: ``"refuse"``, or ``"present"``: a sample may lack files of some modalities, not its label.

    Raises:
        DataError: a file is absent or damaged, a sample is in both train and test, an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    place = locate(DESCRIPTION, root, list(LISTS.values()), folder)
    names = read_parts(DESCRIPTION, place, LISTS)
    notes = locate_pictures(DESCRIPTION, place, FILES, names, missing, {"aolp_sin": "aolp", "aolp_cos": "aolp"})
    squares = {"train": augmentation is None, "val": True, "test": True}
    parts = {
        part: ImageSamples(DESCRIPTION, partial(_read, place, some, squares[part], missing), some,
                           augmentation if part == "train" else None)
        for part, some in names.items()
    }  # fmt: skip
    return DESCRIPTION.with_samples(**parts, notes=notes)


def _read(place: Path, names: list[str], square: bool, missing: str, index: int) -> Item:
    paths = {kind: place / file.format(names[index]) for kind, file in FILES.items()}
    there = {kind for kind, path in paths.items() if missing == "refuse" or path.is_file()}
    images: dict[str, Tensor] = {}
    for name in sorted(there & {"rgb", "nir"}):
        images[name] = read_three(DESCRIPTION, paths[name])
    if {"aolp_sin", "aolp_cos"} <= there:
        sine, cosine = (_read_array(paths[kind]) for kind in ("aolp_sin", "aolp_cos"))
        images["aolp"] = torch.stack([sine, cosine, sine])
    if "dolp" in there:
        images["dolp"] = _read_array(paths["dolp"]).expand(3, -1, -1)
    label = read_label(DESCRIPTION, paths["label"])
    return {name: _cut(images[name], square) for name in DESCRIPTION.modalities if name in images}, _cut(label, square)


def _read_array(path: Path) -> Tensor:
    """Read numbers as float32 (H, W)."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DESCRIPTION.error(f"cannot read {path}: {error}.") from error
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise DESCRIPTION.error(f"{path}: expected floats (H, W), but found {array.dtype} {array.shape}.")
    return torch.from_numpy(array.astype(np.float32))


def _cut(image: Tensor, square: bool) -> Tensor:
    """Cut off what near infrared lacks; then, where asked, cut to the square in the middle."""
    image = image[..., NIR_BEGINS:]
    if not square:
        return image
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[..., top : top + side, left : left + side]
