"""BraTS: tumours of the brain in four sequences of magnetic resonance, as volumes; any sequence may lack in a patient.

Verified in public loaders and READMEs that read them: names of files and folders of 2018 to 2021 and of 2023, labels
1, 2, 4 until 2021 and 1, 2, 3 from 2023 on. Recalled: the case folders of 2024, label 4 (resection cavity) there, and
the file of 2020 with a name of its own. The regions are the challenge's: U. Baid et al., arXiv 2107.02314.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsense.data.base import Data, Description, FileSamples, Item, Part, check_missing, count_missing
from subsense.data.formats.patches import Patches
from subsense.errors import closest

SEQUENCES = {
    "t1": ("t1", "t1n"),
    "t1ce": ("t1ce", "t1gd", "t1c"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
}
"""Modality -> what its files end in: until 2021, and from 2023 on."""

LABEL = ("seg",)
NIFTI = re.compile(r"(?P<case>.+)[_-](?P<kind>[A-Za-z0-9]+)\.nii(\.gz)?")
CLASS_NAMES = ("background", "necrotic core", "oedema", "enhancing tumour")
REGION_NAMES = ("tumour core", "whole tumour", "enhancing tumour")
CAVITY = 4

DESCRIPTION = Description(
    name="brats",
    modalities=dict.fromkeys(SEQUENCES, "1 D H W"),
    task="segmentation",
    class_names=CLASS_NAMES,
    metric="miou-labelled",
    ignore_index=255,
    source="https://www.synapse.org/brats (earlier years: https://www.med.upenn.edu/cbica/brats2020/data.html)",
    licence="as agreed to at the source",
    citation="B. H. Menze et al., The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS), IEEE TMI 34(10), "
    "2015; S. Bakas et al., Scientific Data 4, 2017; U. Baid et al., arXiv 2107.02314",
    folder="brats",
)


@dataclass(frozen=True)
class Case:
    """Hold a patient's (or a visit's) files by modality, `label` among them."""

    name: str
    files: Mapping[str, Path]

    @property
    def patient(self) -> str:
        """Give the patient: a case of 2023 on ends in the number of the visit."""
        return re.sub(r"(BraTS-\w+-\d+)-\d+$", r"\1", self.name)


def brats(
    root: str | Path | None = None,
    *,
    folder: str | None = None,
    target: Literal["classes", "regions"] = "classes",
    labels: Literal["auto", "until-2021", "from-2023"] = "auto",
    test_share: float = 0.2,
    seed: int = 0,
    size: Sequence[int] | None = None,
    patch: Sequence[int] | None = None,
    foreground: float = 2 / 3,
    missing: str = "present",
) -> Data:
    """Load BraTS volumes of any year from 2018 on (needs nibabel: ``pip install 'subsense[nifti]'``).

    Layout: each case in a folder of its own, at any depth, as published in the years::

        brats/
          HGG/Brats18_2013_2_1/Brats18_2013_2_1_flair.nii.gz            2018, 2019: HGG/ and LGG/
          BraTS20_Training_001/BraTS20_Training_001_t1ce.nii            2020 (also .nii.gz; its one file called
                                                                        W39_1998.09.19_Segm.nii is read as the label)
          BraTS2021_00000/BraTS2021_00000_t1.nii.gz                     2021
          BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz            2023, 2024: -t1n, -t1c, -t2w, -t2f, -seg

    The Medical Segmentation Decathlon's `Task01_BrainTumour`, four channels in a file, is to be taken apart first.
    Cases without a label (the challenge's validation parts) are left out, and counted in `notes`.

    Modalities, each "1 D H W": `t1`, `t1ce`, `t2`, `flair`, in the order of the array's axes; what isn't 0 in a volume
    has zero mean and unit deviation, the rest stays 0. What a case lacks is left out of its sample.

    Targets: ``"classes"``: int64 (D, H, W), 0 background, 1 necrotic core, 2 oedema, 3 enhancing tumour (4 until 2021),
    255 the resection cavity of 2024; ``"regions"``: float32 (3, D, H, W), tumour core (1 + 3), whole tumour (1 + 2 +
    3), enhancing tumour (3), which overlap, for a sigmoid each; MONAI has them in this order. The split is by patient,
    drawn from `seed`: the challenge's own test labels are not published.

    Args:
        root: the folder that holds `brats/`.
        folder: what the data set's folder is called, where it isn't `brats`: ``MICCAI_BraTS2020_TrainingData``.
        target: ``"classes"`` or ``"regions"``.
        labels: what 4 means: enhancing tumour (``"until-2021"``) or resection cavity (``"from-2023"``); ``"auto"``
            tells by the case's name.
        test_share: of the patients, who test.
        seed: draws the split.
        size: depth, height and width of the middle that is cut out, or padded with zeros; None: as the files are.
        patch: depth, height and width of a window that is drawn from each volume to train on, anew in every epoch;
            volumes to test on stay whole.
        foreground: how often a labelled place is in the middle of the patch.
        missing: ``"present"``: cases may lack sequences, as many do in hospitals; ``"refuse"``: none may.

    Raises:
        DataError: no case, a damaged file, volumes of a case that differ in shape, a label that can't be, no nibabel.
    """
    _check(target, labels, test_share, {"size": size, "patch": patch})
    if not 0 <= foreground <= 1:
        raise DESCRIPTION.error(f"expected foreground from 0 to 1, but got {foreground!r}.")
    check_missing(DESCRIPTION, missing)
    if root is None:
        raise DESCRIPTION.error(
            f"needs root=..., the folder that holds {DESCRIPTION.folder}/BraTS2021_00000/ or alike."
        )
    place = Path(root) / (folder or DESCRIPTION.folder)
    cases = find_cases(place)
    labelled = [case for case in cases if "label" in case.files]
    if not labelled:
        what = f"{len(cases)} without a label" if cases else "none"
        raise DESCRIPTION.error(f"expected cases with a label in {place}, such as "
                                f"BraTS2021_00000/BraTS2021_00000_seg.nii.gz, but found {what}.")  # fmt: skip
    notes = [f"{len(cases) - len(labelled)} cases without a label are left out."] if len(cases) > len(labelled) else []
    parts = _split(labelled, test_share, seed)
    for part, some in parts.items():
        files = [{kind: case.files.get(kind, _wanted(case, kind)) for kind in (*SEQUENCES, "label")} for case in some]
        notes += count_missing(DESCRIPTION, part, files, missing)
    read = partial(_read, target=target, labels=labels, size=None if size is None else tuple(size))
    train, test = (_samples(read, some) for some in parts.values())
    train = train if patch is None else Patches(train, patch, foreground, seed)
    changes: dict[str, Any] = {"notes": tuple(notes)}
    if size is not None:
        changes["modalities"] = dict.fromkeys(SEQUENCES, f"1 {size[0]} {size[1]} {size[2]}")
    if target == "regions":
        changes |= {"class_names": REGION_NAMES, "ignore_index": None}
    return DESCRIPTION.with_samples(train, test, **changes)


def _samples(read: Any, cases: list[Case]) -> Part:
    return FileSamples(partial(_pick, read, cases), [case.patient for case in cases])


def _check(target: str, labels: str, test_share: float, sizes: Mapping[str, Sequence[int] | None]) -> None:
    for option, found, known in (
        ("target", target, ("classes", "regions")),
        ("labels", labels, ("auto", "until-2021", "from-2023")),
    ):
        if found not in known:
            raise DESCRIPTION.error(
                f"expected {option} among {', '.join(known)}, but got {found!r}.{closest(found, known)}"
            )
    if not 0 < test_share < 1:
        raise DESCRIPTION.error(f"expected test_share between 0 and 1, but got {test_share!r}.")
    for option, size in sizes.items():
        if size is not None and (len(size) != 3 or min(size) < 1):
            raise DESCRIPTION.error(f"expected {option}=(depth, height, width), each at least 1, but got {size!r}.")


# ---- which cases there are


def find_cases(place: Path) -> list[Case]:
    """Find all cases under a folder, in the order of their names."""
    found: dict[Path, dict[str, Path]] = {}
    for path in sorted((*place.rglob("*.nii"), *place.rglob("*.nii.gz"))):
        if path.is_file() and not path.name.startswith(".") and (kind := _kind(path)) is not None:
            twin = found.setdefault(path.parent, {}).setdefault(kind, path)
            if twin != path:
                raise DESCRIPTION.error(
                    f"expected one file of {kind} in {path.parent}, but found {twin.name} and {path.name}."
                )
    return [Case(folder.name, files) for folder, files in sorted(found.items(), key=lambda item: item[0].as_posix())]


def _kind(path: Path) -> str | None:
    """Tell by its name what a file holds; None for what isn't read."""
    if (match := NIFTI.fullmatch(path.name)) is None:
        return None
    word = match["kind"].lower()
    if word in LABEL or word == "segm":
        return "label"
    return next((name for name, endings in SEQUENCES.items() if word in endings), None)


def _wanted(case: Case, kind: str) -> Path:
    """Name the file that a case lacks, as its other files are named."""
    known = next(iter(case.files.values()))
    match = NIFTI.fullmatch(known.name)
    assert match is not None
    late = _is_late(case.name)
    ending = "seg" if kind == "label" else SEQUENCES[kind][-1 if late else 0]
    return known.with_name(f"{case.name}{'-' if late else '_'}{ending}.nii{match[3] or ''}")


def _is_late(case: str) -> bool:
    """Tell the naming of 2023 on: BraTS-GLI-00000-000."""
    return re.fullmatch(r"BraTS-\w+-\d+-\d+", case) is not None


def _split(cases: list[Case], share: float, seed: int) -> dict[str, list[Case]]:
    """Draw who tests; all visits of a patient go together."""
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        raise DESCRIPTION.error(f"expected at least two patients, one to train and one to test, but found {patients}.")
    number = min(len(patients) - 1, max(1, round(share * len(patients))))
    testing = set(np.random.default_rng(seed).permutation(patients)[:number].tolist())
    return {
        "train": [case for case in cases if case.patient not in testing],
        "test": [case for case in cases if case.patient in testing],
    }


# ---- a case


def _pick(read: Any, cases: list[Case], index: int) -> Item:
    item: Item = read(cases[index])
    return item


def _read(case: Case, target: str, labels: str, size: tuple[int, ...] | None) -> Item:
    label = _classes(case, labels)
    volumes = {name: _volume(case.files[name]) for name in SEQUENCES if name in case.files}
    for name, volume in volumes.items():
        if volume.shape != label.shape:
            raise DESCRIPTION.error(
                f"{case.files[name]}: expected the label's shape {label.shape}, but found {volume.shape}."
            )
    inputs = {name: _fitted(standardise_volume(volume), size)[None] for name, volume in volumes.items()}
    classes = _fitted(label, size)
    return inputs, classes if target == "classes" else regions(classes)


def standardise_volume(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and scale what isn't 0 to zero mean and unit deviation; the rest stays 0, as brains are cut out.

    >>> standardise_volume(np.array([0.0, 1.0, 3.0], np.float32)).tolist()
    [0.0, -1.0, 1.0]
    """
    inside = volume != 0
    if not inside.any():
        return volume
    deviation = float(volume[inside].std())
    return np.where(inside, (volume - volume[inside].mean()) / (deviation or 1.0), 0).astype(np.float32)


def regions(classes: Tensor) -> Tensor:
    """Give the challenge's three regions, which overlap: float32 (3, ...): tumour core, whole tumour, enhancing tumour.

    >>> regions(torch.tensor([0, 1, 2, 3])).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    """
    whole, core, enhancing = (classes >= 1) & (classes <= 3), (classes == 1) | (classes == 3), classes == 3
    return torch.stack([core, whole, enhancing]).float()


def _classes(case: Case, labels: str) -> NDArray[np.int64]:
    """Read a label as 0 background, 1 necrotic core, 2 oedema, 3 enhancing tumour, 255 resection cavity."""
    path = case.files["label"]
    values = _array(path)
    found = np.unique(values)
    late = _is_late(case.name) if labels == "auto" else labels == "from-2023"
    allowed = (0, 1, 2, 3, CAVITY) if late else (0, 1, 2, 4)
    if not np.isin(found, allowed).all():
        hint = (
            "" if labels != "auto" else f"; say labels={'until-2021' if late else 'from-2023'!r} if its name misleads"
        )
        raise DESCRIPTION.error(
            f"{path}: expected labels {', '.join(map(str, allowed))}, but found {found.tolist()[:6]}{hint}."
        )
    classes = values.astype(np.int64)
    classes[values == 4] = 255 if late else 3
    return classes


def _volume(path: Path) -> NDArray[np.float32]:
    volume = _array(path)
    if not np.isfinite(volume).all():
        raise DESCRIPTION.error(
            f"{path}: expected finite numbers, but found {int((~np.isfinite(volume)).sum())} others."
        )
    return volume.astype(np.float32)


def _array(path: Path) -> NDArray[Any]:
    """Read a NIfTI file's volume, scaled as its header says."""
    try:
        import nibabel
    except ImportError as error:
        raise DESCRIPTION.error(f"reading {path} needs nibabel: pip install 'subsense[nifti]'.") from error
    try:
        volume: NDArray[Any] = np.asanyarray(nibabel.Nifti1Image.from_filename(path).dataobj)
    except Exception as error:  # what nibabel raises at a damaged file depends on where the damage is
        raise DESCRIPTION.error(f"cannot read {path}: {error}.") from error
    if volume.ndim != 3:
        raise DESCRIPTION.error(f"{path}: expected a volume of three axes, but found shape {volume.shape}.")
    return volume


def _fitted(volume: NDArray[Any], size: tuple[int, ...] | None) -> Tensor:
    """Cut the middle out, or pad it with zeros."""
    if size is None:
        return torch.from_numpy(np.ascontiguousarray(volume))
    fitted = np.zeros(size, volume.dtype)
    source = tuple(
        slice(max(0, (old - new) // 2), max(0, (old - new) // 2) + new)
        for old, new in zip(volume.shape, size, strict=True)
    )
    cut = volume[source]
    goal = tuple(
        slice((new - length) // 2, (new - length) // 2 + length) for length, new in zip(cut.shape, size, strict=True)
    )
    fitted[goal] = cut
    return torch.from_numpy(fitted)
