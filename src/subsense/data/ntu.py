"""NTU RGB+D: 60 actions of 40 subjects, filmed by three Kinect cameras in colour and depth, with tracked skeletons.

56,880 samples, named SsssCcccPpppRrrrAaaa: setup, camera, performer, repetition and action, each with three digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from subsense.data.base import Data, Description, FileSamples, Item, check_missing, count_missing, locate
from subsense.data.formats.images import open_picture
from subsense.data.formats.skeletons import JOINTS, read_skeletons
from subsense.errors import closest

FOLDERS = {"rgb": "nturgb+d_rgb", "depth": "nturgb+d_depth_masked", "skeleton": "nturgb+d_skeletons"}
ENDINGS = {"rgb": "_rgb", "depth": "", "skeleton": ".skeleton"}
NO_SKELETON = "NTU_RGBD_samples_with_missing_skeletons.txt"
TRAINING_SUBJECTS = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
TRAINING_CAMERAS = frozenset({2, 3})
NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
FARTHEST = 4500.0  # mm; what Kinect v2 measures reliably
BODIES = 2
FRAMES, SIZE = 16, (112, 112)
CLASSES = """
drink water / eat meal or snack / brushing teeth / brushing hair / drop / pick up / throw / sitting down / standing up /
clapping / reading / writing / tear up paper / wear jacket / take off jacket / wear a shoe / take off a shoe /
wear on glasses / take off glasses / put on a hat or cap / take off a hat or cap / cheer up / hand waving /
kicking something / put something inside pocket or take it out / hopping / jump up / make or answer a phone call /
playing with phone or tablet / typing on a keyboard / pointing to something with finger / taking a selfie / check time /
rub two hands together / nod head or bow / shake head / wipe face / salute / put the palms together /
cross hands in front / sneeze or cough / staggering / falling / touch head / touch chest / touch back / touch neck /
nausea or vomiting / use a fan / punching or slapping other person / kicking other person / pushing other person /
pat on back of other person / point finger at the other person / hugging other person /
giving something to other person / touch other person's pocket / handshaking / walking towards each other /
walking apart from each other
"""


def _axes(frames: int, size: Sequence[int]) -> dict[str, str]:
    clip = f"{frames} {size[0]} {size[1]}"
    return {"rgb": f"3 {clip}", "depth": f"1 {clip}", "skeleton": f"{frames} {BODIES} {JOINTS} 3"}


DESCRIPTION = Description(
    name="ntu",
    modalities={name: _axes(FRAMES, SIZE)[name] for name in ("rgb", "depth")},
    task="classification",
    class_names=tuple(one.strip() for one in CLASSES.replace("\n", " ").split("/")),
    metric="accuracy",
    source="https://rose1.ntu.edu.sg/dataset/actionRecognition, on request; its tools and the list of missing "
    "skeletons are at https://github.com/shahroudy/NTURGB-D",
    licence="academic research, by the ROSE Lab's own terms",
    citation="A. Shahroudy, J. Liu, T.-T. Ng, G. Wang, NTU RGB+D: A large scale dataset for 3D human activity "
    "analysis, CVPR 2016",
    folder="ntu",
)


@dataclass(frozen=True)
class Sample:
    """Hold what a sample's name says."""

    name: str
    camera: int
    subject: int
    action: int


def ntu(
    root: str | Path | None = None,
    *,
    modalities: Sequence[str] = ("rgb", "depth"),
    split: Literal["cross-subject", "cross-view"] = "cross-subject",
    frames: int = FRAMES,
    size: Sequence[int] = SIZE,
    folders: Mapping[str, str] | None = None,
    leave_out_missing_skeletons: bool = False,
    missing: str = "refuse",
) -> Data:
    """Load the clips of `root/ntu/`; frames and skeletons are read when they are needed.

    Layout::

        ntu/
          nturgb+d_rgb/S001C001P001R001A001_rgb/000000.jpg ...                a video's frames, named in their order
          nturgb+d_depth_masked/S001C001P001R001A001/MDepth-00000001.png ...  16 bits, in mm, 0 where nothing is
          nturgb+d_skeletons/S001C001P001R001A001.skeleton                    text, if skeletons are asked for
          NTU_RGBD_samples_with_missing_skeletons.txt                         if its samples are to be left out

    The colour videos are published as .avi: take their frames out first, scaled down (ffmpeg -i S..._rgb.avi
    -vf scale=-2:256 nturgb+d_rgb/S..._rgb/%06d.jpg). Samples of NTU RGB+D 120 (setups from 18, actions from 61) are not
    counted.

    - `rgb` "3 T H W": colours from -1 to 1
    - `depth` "1 T H W": in units of 4.5 m, at most 1; 0 where nothing was measured, which is most of a masked map
    - `skeleton` "T 2 25 3": in metres, from the camera; the two bodies that move most, zeros where there is no second

    Frames are taken from the middle of as many equal parts of a clip, scaled to cover `size` and cut to its middle.

    Args:
        root: the folder that holds `ntu/`.
        modalities: which of `rgb`, `depth`, `skeleton`, in the order of columns; at least one of them.
        split: ``"cross-subject"``: the paper's 20 subjects train; ``"cross-view"``: cameras 2 and 3 train, 1 tests.
        frames: of each clip.
        size: height and width in pixels.
        folders: modality -> folder, where it is called otherwise: ``{"rgb": "Images"}``.
        leave_out_missing_skeletons: whether the 302 samples of the published list are left out.
        missing: ``"refuse"``, or ``"present"``: a sample is taken if any of the modalities has it.

    Raises:
        DataError: a folder, file or list is absent or damaged; a sample that one modality has and another lacks; a
            split without samples.
    """
    _check(modalities, split, frames, size, folders or {})
    places = {name: (folders or {}).get(name, FOLDERS[name]) for name in modalities}
    folder = _located(root, places)
    check_missing(DESCRIPTION, missing)
    samples = _samples(folder, places, missing)
    if leave_out_missing_skeletons:
        names = _missing_skeletons(root)
        samples = [sample for sample in samples if sample.name not in names]
    parts: dict[bool, list[Sample]] = {True: [], False: []}
    for sample in samples:
        parts[_trains(sample, split)].append(sample)
    read = partial(_read, folder, places, frames, (size[0], size[1]), missing)
    notes = [
        note
        for part, trains in (("train", True), ("test", False))
        for note in count_missing(DESCRIPTION, part, [_paths(folder, places, one) for one in parts[trains]], missing)
    ]
    train, test = (
        FileSamples(partial(_pick, read, parts[trains]), _groups(folder, parts[trains], split, trains))
        for trains in (True, False)
    )
    axes = {name: _axes(frames, size)[name] for name in modalities}
    return DESCRIPTION.with_samples(train, test, modalities=axes, notes=tuple(notes))


def _check(modalities: Sequence[str], split: str, frames: int, size: Sequence[int], folders: Mapping[str, str]) -> None:
    for name in (*modalities, *folders):
        if name not in FOLDERS:
            raise DESCRIPTION.error(
                f"expected modalities among {', '.join(FOLDERS)}, but got {name!r}.{closest(name, FOLDERS)}"
            )
    if not modalities or len(set(modalities)) != len(modalities):
        raise DESCRIPTION.error(f"expected each modality at most once, at least one, but got {list(modalities)}.")
    if split not in ("cross-subject", "cross-view"):
        raise DESCRIPTION.error(f"expected split 'cross-subject' or 'cross-view', but got {split!r}.")
    if frames < 1 or len(size) != 2 or min(size) < 1:
        raise DESCRIPTION.error(f"expected frames and size=(height, width) from 1, but got {frames} and {size!r}.")


# ---- which samples there are


def _located(root: str | Path | None, places: Mapping[str, str]) -> Path:
    if root is None:
        locate(DESCRIPTION, None, [*places.values()])
    folder = Path(root or "") / DESCRIPTION.folder
    for place in places.values():
        if not (folder / place).is_dir():
            raise DESCRIPTION.error(f"expected the folder {folder / place}, but there is none.")
    return folder


def _paths(folder: Path, places: Mapping[str, str], sample: Sample) -> dict[str, Path]:
    return {name: folder / place / f"{sample.name}{ENDINGS[name]}" for name, place in places.items()}


def _samples(folder: Path, places: Mapping[str, str], missing: str) -> list[Sample]:
    """List the samples that the folders have, in the order of their names; all must have the same, unless told."""
    found = {name: _names(folder / place, ENDINGS[name]) for name, place in places.items()}
    every = set().union(*found.values())
    for name in sorted(every):
        for modality, names in found.items():
            if name not in names and missing == "refuse":
                path = folder / places[modality] / f"{name}{ENDINGS[modality]}"
                raise DESCRIPTION.error(f"expected {path}, which other modalities have, but there is none.")
    numbers = {name: _numbers(name) for name in sorted(every)}
    return [
        Sample(name, camera, subject, action)
        for name, (setup, camera, subject, _, action) in numbers.items()
        if setup <= 17 and action <= DESCRIPTION.num_classes
    ]


def _names(folder: Path, ending: str) -> set[str]:
    entries = [path.name for path in folder.iterdir()]
    names = {entry.removesuffix(ending) for entry in entries if entry.endswith(ending)}
    found = {name for name in names if NAME.fullmatch(name)}
    if not found and any(entry.endswith(".avi") for entry in entries):
        raise DESCRIPTION.error(f"{folder} holds videos; take their frames out first, a folder for each.")
    return found


def _numbers(name: str) -> tuple[int, int, int, int, int]:
    match = NAME.fullmatch(name)
    assert match is not None
    setup, camera, subject, repetition, action = map(int, match.groups())
    return setup, camera, subject, repetition, action


def _missing_skeletons(root: str | Path | None) -> set[str]:
    path = locate(DESCRIPTION, root, [NO_SKELETON]) / NO_SKELETON
    names = {line.strip() for line in path.read_text("utf-8-sig", errors="replace").splitlines()}
    found = {name for name in names if NAME.fullmatch(name)}
    if not found:
        raise DESCRIPTION.error(f"expected names such as S001C002P005R002A008 in {path}, but found none.")
    return found


def _trains(sample: Sample, split: str) -> bool:
    if split == "cross-view":
        return sample.camera in TRAINING_CAMERAS
    return sample.subject in TRAINING_SUBJECTS


def _groups(folder: Path, samples: list[Sample], split: str, trains: bool) -> list[str]:
    if not samples:
        part = "training" if trains else "test"
        raise DESCRIPTION.error(f"{folder} holds no sample of the {split} split's {part} part.")
    if split == "cross-view":
        return [f"camera {sample.camera}" for sample in samples]
    return [f"subject {sample.subject}" for sample in samples]


# ---- a sample


def _pick(read: Callable[[Sample], Item], samples: list[Sample], index: int) -> Item:
    return read(samples[index])


def _read(
    folder: Path, places: Mapping[str, str], frames: int, size: tuple[int, int], missing: str, sample: Sample
) -> Item:
    inputs: dict[str, Any] = {}
    for modality, path in _paths(folder, places, sample).items():
        if missing == "present" and not path.exists():
            continue
        if modality == "skeleton":
            inputs[modality] = _skeletons(path, frames)
        else:
            inputs[modality] = _clip(path, frames, READERS[modality], size)
    return inputs, torch.tensor(sample.action - 1)


def middles(length: int, number: int) -> list[int]:
    """Give the middle frame of each of `number` equal parts of a clip.

    >>> middles(8, 4), middles(2, 4)
    ([1, 3, 5, 7], [0, 0, 1, 1])
    """
    return [(2 * part + 1) * length // (2 * number) for part in range(number)]


def _skeletons(path: Path, frames: int) -> Tensor:
    bodies = read_skeletons(path, DESCRIPTION, BODIES)
    return torch.from_numpy(bodies[middles(len(bodies), frames)])


def _clip(folder: Path, frames: int, read: Callable[[Image.Image, Path, tuple[int, int]], Tensor], size: Any) -> Tensor:
    """Read frames as (channels, T, H, W)."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png"))
    if not files:
        raise DESCRIPTION.error(f"expected frames in {folder}, but there are none.")
    return torch.stack([_frame(files[index], read, size) for index in middles(len(files), frames)], 1)


def _frame(path: Path, read: Callable[[Image.Image, Path, tuple[int, int]], Tensor], size: tuple[int, int]) -> Tensor:
    with open_picture(DESCRIPTION, path) as image:
        return read(image, path, size)


def _colour(image: Image.Image, path: Path, size: tuple[int, int]) -> Tensor:
    pixels = _covering(image.convert("RGB"), size, Image.Resampling.BILINEAR)
    return torch.from_numpy(pixels).movedim(-1, 0).float() / 127.5 - 1


def _depth(image: Image.Image, path: Path, size: tuple[int, int]) -> Tensor:
    if image.mode not in ("I", "I;16", "I;16B"):
        raise DESCRIPTION.error(f"{path}: expected a depth map of 16 bits, in mm, but found mode {image.mode!r}.")
    millimetres = _covering(image, size, Image.Resampling.NEAREST).astype(np.float32)
    return torch.from_numpy(millimetres / FARTHEST).clamp(max=1)[None]


READERS: dict[str, Callable[[Image.Image, Path, tuple[int, int]], Tensor]] = {"rgb": _colour, "depth": _depth}


def _covering(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> NDArray[Any]:
    """Scale a picture so that it covers `size`, and cut to its middle."""
    return np.array(ImageOps.fit(image, (size[1], size[0]), resampling))
