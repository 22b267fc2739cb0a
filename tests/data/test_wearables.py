"""PAMAP2 and OPPORTUNITY in their published files: gaps stay gaps, and each sensor has its own rate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subsense as ss
from subsense.data import load, opportunity, pamap2
from subsense.errors import DataError
from subsense.testing import check_dataset

LINES = 60
SMALL: dict[str, Any] = {"length": 20, "step": 10, "gap": 3}


def write_table(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, table, fmt="%.6g")


def protocol(seed: int, harm: Callable[[Any], None] = lambda table: None) -> Any:
    """Make a subject's table: two activities of 30 lines, heart rate in every tenth line."""
    table = np.random.default_rng(seed).normal(5, 2, (LINES, 54))
    table[:, 0] = np.arange(LINES) / 100
    table[:, 1] = np.repeat([1, 24], LINES // 2)
    heart = table[::10, 2].copy()
    table[:, 2] = np.nan
    table[::10, 2] = heart
    harm(table)
    return table


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for subject in pamap2.SUBJECTS:
        write_table(tmp_path / f"PAMAP2_Dataset/Protocol/subject{subject}.dat", protocol(subject))
    return tmp_path


def test_windows_of_one_activity_at_each_sensors_rate(people: Path) -> None:
    data = load("pamap2", people, **SMALL)
    assert data.modalities == {"hand": "20 9", "chest": "20 9", "ankle": "20 9", "heart": "1 1"}
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (28, 4, 4)
    assert set(data.test.groups) == {"subject 106"}
    assert data.notes == ()
    assert [data.class_names[int(target)] for _, target in data.test] == ["lying"] * 2 + ["rope jumping"] * 2
    for part in (data.train, data.val, data.test):
        check_dataset(part, data.modalities)
    for name in data.modalities:
        every = torch.cat([inputs[name] for inputs, _ in data.train])
        torch.testing.assert_close(every.mean(0), torch.zeros(every.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(every.std(0, correction=0), torch.ones(every.shape[1]), atol=1e-4, rtol=0)


def test_the_channels_are_those_of_the_readme(people: Path) -> None:
    assert [pamap2.PLACES["chest"] + one for one in pamap2.CHANNELS] == [21, 22, 23, 27, 28, 29, 30, 31, 32]
    tables = {subject: protocol(subject) for subject in pamap2.SUBJECTS}
    trained = np.concatenate([np.round(tables[one], 5)[:, 21] for one in tables if one not in (105, 106)])
    raw = load("pamap2", people, length=30, step=30, gap=3)
    expected = (tables[106][:30, 21] - trained.mean()) / trained.std()
    torch.testing.assert_close(raw.test[0][0]["chest"][:, 0].double(), torch.tensor(expected), atol=1e-3, rtol=0)


def test_a_gap_is_bridged_or_its_sensor_is_missing(people: Path) -> None:
    def harm(table: Any) -> None:
        table[3:6, 4] = np.nan  # bridged
        table[35:39, 20:37] = np.nan  # too long

    write_table(people / "PAMAP2_Dataset/Protocol/subject106.dat", protocol(106, harm))
    data = load("pamap2", people, **SMALL)
    assert data.notes == ("test: 1 of 4 windows lack chest.",)
    assert [list(inputs) for inputs, _ in data.test][2] == ["hand", "ankle", "heart"]
    hand = data.test[0][0]["hand"][:, 0]
    torch.testing.assert_close(hand[3:6], torch.lerp(hand[2], hand[6], torch.tensor([0.25, 0.5, 0.75])))
    assert all(one.isfinite().all() for inputs, _ in data.test for one in inputs.values())
    inputs, _ = ss.Collate(data.modalities)([data.test[index] for index in range(4)])
    assert inputs["present"].tolist() == [[True] * 4] * 2 + [[True, False, True, True]] + [[True] * 4]


def test_a_sensor_that_no_training_window_has_is_refused(people: Path) -> None:
    def harm(table: Any) -> None:
        table[:, 37:] = np.nan

    for subject in pamap2.SUBJECTS:
        if subject != 106:
            write_table(people / f"PAMAP2_Dataset/Protocol/subject{subject}.dat", protocol(subject, harm))
    with pytest.raises(DataError, match="expected training windows with ankle, but each has a longer gap"):
        load("pamap2", people, **SMALL)


def test_a_missing_file_is_named_or_counted(people: Path) -> None:
    lost = people / "PAMAP2_Dataset/Protocol/subject103.dat"
    lost.unlink()
    with pytest.raises(DataError, match=rf"pamap2: expected the file {lost}, but there is none.*https://"):
        load("pamap2", people, **SMALL)
    assert load("pamap2", people, missing="present", **SMALL).notes == ("1 of 9 subjects have no file.",)
    with pytest.raises(DataError, match=r"test_subjects and val_subjects among \[101.*but got \[103\] and \[105\]"):
        load("pamap2", people, missing="present", test_subjects=[103], **SMALL)
    write_table(people / "PAMAP2_Dataset/Protocol/subject101.dat", np.zeros((3, 53)))
    with pytest.raises(DataError, match=r"subject101\.dat: expected lines of 54 numbers, but found \(3, 53\)"):
        load("pamap2", people, missing="present", **SMALL)
    (people / "PAMAP2_Dataset/Protocol/subject101.dat").write_text("an error page\n")
    with pytest.raises(DataError, match=r"cannot read .*subject101\.dat"):
        load("pamap2", people, missing="present", **SMALL)


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    labels = list(opportunity.GESTURES)
    for seed, run in enumerate(opportunity.FILES):
        table = np.random.default_rng(seed).normal(0, 1000, (LINES, 250)).round()
        table[:, 243] = np.repeat([1, 5], LINES // 2)
        table[:, 249] = np.repeat([0, labels[1 + seed % 17]], LINES // 2)
        if run == "S2-ADL4":
            table[5:15, 102:118] = np.nan
        write_table(tmp_path / f"OpportunityUCIDataset/dataset/{run}.dat", table)
    return tmp_path


def test_the_challenges_split_and_its_two_tasks(kitchen: Path) -> None:
    data = load("opportunity", kitchen, **SMALL)
    assert set(data.test.groups) == {"S2-ADL4", "S2-ADL5", "S3-ADL4", "S3-ADL5"}
    assert data.val is not None
    assert set(data.val.groups) == {"S2-ADL3", "S3-ADL3"}
    assert len(set(data.train.groups)) == 12
    assert data.notes == ("test: 2 of 16 windows lack left_shoe.",)
    assert [data.class_names[int(target)] for _, target in data.test][:3] == ["null", "null", "close drawer 1"]
    for part in (data.train, data.val, data.test):
        check_dataset(part, data.modalities)
    moving = load("opportunity", kitchen, task="locomotion", **SMALL)
    assert [moving.class_names[int(target)] for _, target in moving.test][:4] == ["stand"] * 2 + ["lie"] * 2


def test_what_cannot_be_is_refused(kitchen: Path) -> None:
    with pytest.raises(DataError, match=r"task among gestures, locomotion, but got 'gesture'.*Did you mean 'gestures'"):
        load("opportunity", kitchen, task="gesture")
    with pytest.raises(DataError, match=r"subjects among 1 to 4 with 2 or 3 among them, but got .*\[1\]"):
        load("opportunity", kitchen, subjects=[1])
    lost = kitchen / "OpportunityUCIDataset/dataset/S1-Drill.dat"
    table = np.loadtxt(lost)
    table[0, 249] = 7
    write_table(lost, table)
    with pytest.raises(DataError, match=r"S1-Drill\.dat: expected labels of gestures in column 250.* found \[7\.0\]"):
        load("opportunity", kitchen, **SMALL)
    lost.unlink()
    with pytest.raises(DataError, match=rf"opportunity: expected the file {lost}, but there is none"):
        load("opportunity", kitchen, **SMALL)
    assert "1 of 18 runs have no file." in load("opportunity", kitchen, missing="present", **SMALL).notes
