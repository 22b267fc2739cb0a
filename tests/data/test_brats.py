"""BraTS: the folders and names of all years, on small volumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subsense as ss
from subsense.data import load
from subsense.errors import DataError
from subsense.testing import check_dataset

nibabel = pytest.importorskip("nibabel")

SHAPE = (5, 6, 4)
OLD, NEW = ("t1", "t1ce", "t2", "flair"), ("t1n", "t1c", "t2w", "t2f")
YEARS: dict[str, tuple[str, str, tuple[str, ...], int]] = {
    "2018": ("HGG/Brats18_2013_{}_1", "_", OLD, 4),
    "2019": ("LGG/BraTS19_TCIA{}_1", "_", OLD, 4),
    "2020": ("MICCAI_BraTS2020_TrainingData/BraTS20_Training_00{}", "_", OLD, 4),
    "2021": ("BraTS2021_0000{}", "_", OLD, 4),
    "2023": ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-0000{}-000", "-", NEW, 3),
    "2024": ("training_data1_v2/BraTS-GLI-0200{}-101", "-", NEW, 3),
    "2023 meningioma": ("BraTS-MEN-0000{}-000", "-", NEW, 3),
}


def write_volume(path: Path, volume: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)


def write_year(root: Path, year: str, patients: int = 5, ending: str = ".nii.gz") -> dict[str, Any]:
    """Write patients as that year has them; give the volumes by case and kind."""
    pattern, joint, kinds, enhancing = YEARS[year]
    draw = np.random.default_rng(0)
    written: dict[str, Any] = {}
    for patient in range(patients):
        case = root / "brats" / pattern.format(patient)
        volumes = {kind: draw.integers(0, 500, SHAPE).astype(np.int16) for kind in kinds}
        volumes["seg"] = draw.choice([0, 1, 2, enhancing], SHAPE).astype(np.int16)
        for kind, volume in volumes.items():
            write_volume(case / f"{case.name}{joint}{kind}{ending}", volume)
        written[case.name] = volumes
    return written


@pytest.mark.parametrize("year", YEARS)
def test_reads_every_years_names(tmp_path: Path, year: str) -> None:
    written = write_year(tmp_path, year, ending=".nii" if year == "2020" else ".nii.gz")
    data = load("brats", tmp_path)
    assert (len(data.train), len(data.test)) == (4, 1)
    assert data.notes == ()
    kinds, enhancing = YEARS[year][2:]
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)
        for (inputs, label), patient in zip(part, part.groups, strict=True):
            (volumes,) = [volumes for case, volumes in written.items() if case.startswith(patient)]
            assert torch.equal(label == 3, torch.from_numpy(volumes["seg"] == enhancing))
            assert torch.equal(label == 2, torch.from_numpy(volumes["seg"] == 2))
            for name, kind in zip(inputs, kinds, strict=True):
                volume = volumes[kind].astype(np.float64)
                inside = volume[volume != 0]
                expected = np.where(volume != 0, (volume - inside.mean()) / inside.std(), 0)
                torch.testing.assert_close(inputs[name][0].double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_regions_overlap_as_the_challenge_has_them(tmp_path: Path) -> None:
    write_year(tmp_path, "2021")
    classes, regions = (load("brats", tmp_path, target=target) for target in ("classes", "regions"))
    label, three = classes.train[0][1], regions.train[0][1]
    core, whole, enhancing = three
    assert torch.equal(whole, (label > 0).float())
    assert torch.equal(core, ((label == 1) | (label == 3)).float())
    assert torch.equal(enhancing, (label == 3).float())
    assert regions.class_names == ("tumour core", "whole tumour", "enhancing tumour")


def test_sequences_may_lack_and_are_counted(tmp_path: Path) -> None:
    write_year(tmp_path, "2023")
    place = tmp_path / "brats" / "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData"
    for case in sorted(place.iterdir())[:3]:
        (case / f"{case.name}-t1c.nii.gz").unlink()
    data = load("brats", tmp_path)
    assert sum(int(note.split()[1]) for note in data.notes if note.endswith("lack t1ce.")) == 3
    lacking = [list(inputs) == ["t1", "t2", "flair"] for part in (data.train, data.test) for inputs, _ in part]
    assert sum(lacking) == 3
    inputs, _ = ss.Collate(data.modalities)([data.train[index] for index in range(4)])
    assert inputs["present"][:, [0, 2, 3]].all()
    assert not inputs["present"][:, 1].all()
    with pytest.raises(
        DataError, match=r"brats: expected the file .*BraTS-GLI-0000\d-000-t1c\.nii\.gz, but there is none"
    ):
        load("brats", tmp_path, missing="refuse")


def test_visits_of_a_patient_stay_together_and_cases_without_label_are_counted(tmp_path: Path) -> None:
    write_year(tmp_path, "2024")
    place = tmp_path / "brats" / "training_data1_v2"
    for visit in ("102", "103"):
        case = place / f"BraTS-GLI-02000-{visit}"
        for kind in (*NEW, "seg"):
            write_volume(case / f"{case.name}-{kind}.nii.gz", np.ones(SHAPE, np.int16))
    (place / "BraTS-GLI-02001-101" / "BraTS-GLI-02001-101-seg.nii.gz").unlink()
    for seed in range(5):
        data = load("brats", tmp_path, seed=seed)
        assert data.notes == ("1 cases without a label are left out.",)
        assert not set(data.train.groups) & set(data.test.groups)
        assert (data.train.groups + data.test.groups).count("BraTS-GLI-02000") == 3


def test_four_is_the_cavity_from_2024_on_and_three_was_nothing_before(tmp_path: Path) -> None:
    write_year(tmp_path, "2024")
    place = next((tmp_path / "brats/training_data1_v2").iterdir())
    label = np.zeros(SHAPE, np.int16)
    label[0, 0, 0] = 4
    write_volume(place / f"{place.name}-seg.nii.gz", label)
    data = load("brats", tmp_path)
    found = [int(one[1][0, 0, 0]) for part in (data.train, data.test) for one in part]
    assert 255 in found
    regions = load("brats", tmp_path, target="regions")
    assert all(one[1].max() <= 1 for part in (regions.train, regions.test) for one in part)
    early = tmp_path / "early"
    write_year(early, "2021")
    for case in (early / "brats").iterdir():
        write_volume(case / f"{case.name}_seg.nii.gz", np.full(SHAPE, 3, np.int16))
    with pytest.raises(DataError, match=r"_seg\.nii\.gz: expected labels 0, 1, 2, 4, but found \[3\]; say labels="):
        load("brats", early).train[0]
    assert int(load("brats", early, labels="from-2023").train[0][1].max()) == 3


def test_the_middle_is_cut_out_or_padded(tmp_path: Path) -> None:
    write_year(tmp_path, "2021")
    whole, cut = load("brats", tmp_path), load("brats", tmp_path, size=(3, 8, 4))
    assert cut.modalities["t1"] == "1 3 8 4"
    check_dataset(cut.train, cut.modalities)
    for (inputs, label), (some, part) in zip(whole.train, cut.train, strict=True):
        assert torch.equal(part[:, 1:7], label[1:4])
        assert torch.equal(some["t2"][0, :, 1:7], inputs["t2"][0, 1:4])
        assert not some["t2"][0, :, 0].any()


def test_a_label_of_2020_with_a_name_of_its_own_is_read(tmp_path: Path) -> None:
    write_year(tmp_path, "2020")
    case = next((tmp_path / "brats/MICCAI_BraTS2020_TrainingData").iterdir())
    (case / f"{case.name}_seg.nii.gz").rename(case / "W39_1998.09.19_Segm.nii.gz")
    data = load("brats", tmp_path)
    assert (len(data.train) + len(data.test), data.notes) == (5, ())


def test_faults_are_named(tmp_path: Path) -> None:
    written = write_year(tmp_path, "2021")
    place = tmp_path / "brats" / next(iter(written))
    path = place / f"{place.name}_t1.nii.gz"

    def read(**options: Any) -> int:
        data = load("brats", tmp_path, **options)
        return len([*data.train, *data.test])

    def fail(message: str, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            read(**options)

    fail(r"target among classes, regions, but got 'region'.*Did you mean 'regions'", target="region")
    fail(r"test_share between 0 and 1, but got 1", test_share=1)
    fail(r"size=\(depth, height, width\)", size=(3, 3))
    write_volume(path, np.ones((2, 2, 2), np.int16))
    fail(r"_t1\.nii\.gz: expected the label's shape \(5, 6, 4\), but found \(2, 2, 2\)")
    write_volume(path, np.full(SHAPE, np.nan, np.float32))
    fail(r"_t1\.nii\.gz: expected finite numbers, but found 120 others")
    path.write_bytes(path.read_bytes()[:40])
    fail(r"cannot read .*_t1\.nii\.gz")
    write_volume(place / f"{place.name}_t1n.nii.gz", np.ones(SHAPE, np.int16))
    fail(r"expected one file of t1 in .*BraTS2021_0000")
    with pytest.raises(DataError, match=r"expected cases with a label in .*, but found none"):
        load("brats", tmp_path, folder="nothing")
