"""MFNet: streets by day and night, photographed in colour and in thermal infrared; 8 classes and what has no label.

1,569 pairs of 480 x 640 pixels, 784 to train, 392 to validate, 393 to test in the published lists; train.txt names the
mirror image of each of the 784 too, as NAME_flip.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from subsense.data.base import Data, Description, Item, locate
from subsense.data.formats.augmentation import Augmentation
from subsense.data.formats.images import (
    IGNORED,
    ImageSamples,
    locate_pictures,
    read_image,
    read_label,
    read_parts,
    read_three,
)

DESCRIPTION = Description(
    name="mfnet",
    modalities={"rgb": "3 H W", "thermal": "3 H W"},
    task="segmentation",
    class_names=("unlabelled", "car", "person", "bike", "curve", "car stop", "guardrail", "colour cone", "bump"),
    metric="miou",
    ignore_index=IGNORED,
    source="https://www.mi.t.u-tokyo.ac.jp/static/projects/mil_multispectral/",
    licence="as stated at the source; none is stated in the authors' code repository",
    citation="Q. Ha, K. Watanabe, T. Karasawa, Y. Ushiku, T. Harada, MFNet: Towards real-time semantic segmentation "
    "for autonomous vehicles with multi-spectral scenes, IROS 2017",
    folder="mfnet",
)
LISTS = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
THERMAL = ("ther", "thermal")
ENDINGS = (".png", ".jpg", ".jpeg")
FLIP = "_flip"

Source = tuple[str, bool]
"""The name of a sample's files, and whether they are mirrored."""


def mfnet(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    augment: Mapping[str, Any] | None = None,
    missing: str = "refuse",
) -> Data:
    """Load MFNet in either of its two forms.

    Layout, as published: four channels in one file, the fourth is thermal::

        mfnet/
          images/00001D.png ...   RGBA, 480 x 640
          labels/00001D.png ...   0 unlabelled, 1 car, 2 person, 3 bike, 4 curve, 5 car stop, 6 guardrail,
                                  7 colour cone, 8 bump
          train.txt, val.txt, test.txt   one name a line: 00001D

    Layout, as CMNeXt's loader has it, where there is no `images/`::

        mfnet/
          rgb/00001D.jpg ...      or .png
          ther/00001D.jpg ...     or .png; the folder may be called thermal/
          labels/00001D.png ...
          train.txt, val.txt, test.txt

    `train.txt` as published names mirror images too, ``00001D_flip``, which are in neither form until a script of the
    authors has written them. Where such files are absent, the pictures and label of ``00001D`` are mirrored, left to
    right, as they are read; where all of them are there, they are read.

    Modalities: `rgb` "3 H W", normalised by ImageNet's mean and deviation; `thermal` "3 H W", its one channel repeated,
    in 0..1, as CMNeXt's loader gives it. (Where that loader says val it takes the test list.)

    Pixels without label are class 0 and count like any other, as in published figures; the metric `miou-labelled`
    leaves that class out of the mean.

    Args:
        root: the folder that holds `mfnet/`.
        folder: what the data set's folder is called, where it isn't `mfnet`.
        augment: options of `Augmentation`, for the training part. CMNeXt's are
            ``{scale: [0.5, 2.0], crop: [480, 640], flip: 0.5, photometric: 0.2, blur: 0.2}``; its padding is labelled
            255, which the loss has to leave out (``cross_entropy: {ignore_index: 255}``).
        missing: ``"refuse"``, or ``"present"``: a sample may lack its file in `rgb/` or `ther/`.

    Raises:
        DataError: a file is absent or damaged, a sample is in both train and test, an option can't be.
    """
    augmentation = Augmentation.parse(augment)
    place = locate(DESCRIPTION, root, list(LISTS.values()), folder)
    names = read_parts(DESCRIPTION, place, LISTS)
    files = _files(place, [name for some in names.values() for name in some])
    sources = {part: [_source(place, files, name) for name in some] for part, some in names.items()}
    own = {part: [name for name, _ in some] for part, some in sources.items()}
    notes = locate_pictures(DESCRIPTION, place, files, own, missing)
    parts = {
        part: ImageSamples(DESCRIPTION, partial(_read, place, files, some, missing),
                           [name.removesuffix(FLIP) for name, _ in some], augmentation if part == "train" else None)
        for part, some in sources.items()
    }  # fmt: skip
    return DESCRIPTION.with_samples(**parts, notes=notes)


def _source(place: Path, files: Mapping[str, str], name: str) -> Source:
    """Say which pictures a sample is read from, and whether they are mirrored: where none of its own files is there."""
    own = any((place / file.format(name)).is_file() for file in files.values())
    return (name.removesuffix(FLIP), True) if name.endswith(FLIP) and not own else (name, False)


def _files(place: Path, names: list[str]) -> dict[str, str]:
    """Find out which form the folder has, and how its files end: as the first that is there."""
    if (place / "images").is_dir():
        return {"all": "images/{}.png", "label": "labels/{}.png"}
    thermal = next((name for name in THERMAL if (place / name).is_dir()), None)
    if thermal is None or not (place / "rgb").is_dir():
        wanted = f"images/, or rgb/ and one of {', '.join(f'{name}/' for name in THERMAL)}"
        raise DESCRIPTION.error(f"{place}: expected {wanted}, but found neither.")
    endings = {name: _ending(place / name, names) for name in ("rgb", thermal)}
    return {
        "rgb": f"rgb/{{}}{endings['rgb']}",
        "thermal": f"{thermal}/{{}}{endings[thermal]}",
        "label": "labels/{}.png",
    }


def _ending(folder: Path, names: list[str]) -> str:
    found = (ending for name in names for ending in ENDINGS if (folder / f"{name}{ending}").is_file())
    return next(found, ENDINGS[0])


def _read(place: Path, files: Mapping[str, str], sources: list[Source], missing: str, index: int) -> Item:
    source, mirrored = sources[index]
    paths = {kind: place / file.format(source) for kind, file in files.items()}
    label = read_label(DESCRIPTION, paths.pop("label"))
    if "all" in paths:
        images = _split(paths["all"])
    else:
        there = {kind: path for kind, path in paths.items() if missing == "refuse" or path.is_file()}
        images = {kind: read_three(DESCRIPTION, path) for kind, path in there.items()}
    if mirrored:
        return {name: image.flip(-1) for name, image in images.items()}, label.flip(-1)
    return images, label


def _split(path: Path) -> dict[str, Tensor]:
    """Read colour and thermal from one file."""
    image = read_image(DESCRIPTION, path)
    if len(image) != 4:
        raise DESCRIPTION.error(f"{path}: expected channels red, green, blue and thermal, but found {len(image)}.")
    return {"rgb": image[:3], "thermal": image[3:].expand(3, -1, -1)}
