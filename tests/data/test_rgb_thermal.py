"""PST900 and FMB in their layouts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from picture_trees import HEIGHT, WIDTH, pixels, write_picture
from subsense.data import load
from subsense.data.formats.images import normalise
from subsense.errors import DataError
from subsense.testing import check_dataset

SETS: dict[str, Any] = {
    "pst900": ("PST900_RGBT_Dataset", {"rgb": "rgb", "thermal": "thermal", "label": "labels"}, 5),
    "fmb": ("FMB", {"rgb": "Visible", "thermal": "Infrared", "label": "Label"}, 15),
}
NAMES = {"train": ["00001.png", "31_bag1a.rect.png"], "test": ["00003.png"]}


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(name: str, tmp_path: Path) -> Path:
    folder, kinds, num_classes = SETS[name]
    draw = np.random.default_rng(0)
    for part, files in NAMES.items():
        for file in files:
            write_picture(tmp_path / folder / part / kinds["rgb"] / file, pixels(draw, 3))
            write_picture(tmp_path / folder / part / kinds["thermal"] / file, pixels(draw, 1))
            write_picture(tmp_path / folder / part / kinds["label"] / file, pixels(draw, 1) % num_classes)
    return tmp_path / folder


def test_reads_the_layout(name: str, place: Path) -> None:
    data = load(name, place.parent)
    _, kinds, num_classes = SETS[name]
    assert (len(data.train), len(data.test), data.num_classes) == (2, 1, num_classes)
    inputs, label = data.train[0]
    colour, heat, classes = (np.array(Image.open(place / "train" / kinds[kind] / "00001.png")) for kind in kinds)
    torch.testing.assert_close(inputs["rgb"], normalise(torch.from_numpy(colour).permute(2, 0, 1) / 255))
    torch.testing.assert_close(inputs["thermal"], torch.from_numpy(heat).expand(3, -1, -1) / 255)
    assert torch.equal(label, torch.from_numpy(classes).long())
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)
    place.rename(place.with_name("else"))
    assert len(load(name, place.parent, folder="else").train) == 2


def test_a_missing_file_is_named_or_its_modality_is_missing(name: str, place: Path) -> None:
    lost = place / "test" / SETS[name][1]["thermal"] / "00003.png"
    lost.unlink()
    with pytest.raises(DataError, match=rf"{name}: expected the file {lost}, but there is none.*https://"):
        load(name, place.parent)
    data = load(name, place.parent, missing="present")
    assert data.notes == ("test: 1 of 1 samples lack thermal.",)
    assert list(data.test[0][0]) == ["rgb"]
    assert list(data.train[0][0]) == ["rgb", "thermal"]


def test_a_label_beyond_the_classes_is_refused(name: str, place: Path) -> None:
    write_picture(place / "train" / SETS[name][1]["label"] / "00001.png", np.full((HEIGHT, WIDTH), 15, np.uint8))
    with pytest.raises(DataError, match=r"00001\.png: expected labels 0 to \d+, or 255, but found 15"):
        load(name, place.parent).train[0]


def test_raw_thermal_pictures_have_sixteen_bits(tmp_path: Path) -> None:
    for part in ("train", "test"):
        place = tmp_path / "PST900_RGBT_Dataset" / part
        write_picture(place / "rgb/1.png" if part == "train" else place / "rgb/2.png", np.zeros((2, 2, 3), np.uint8))
        name = "1.png" if part == "train" else "2.png"
        write_picture(place / "thermal_raw" / name, np.full((2, 2), 13107, np.uint16))
        write_picture(place / "labels" / name, np.zeros((2, 2), np.uint8))
    thermal = load("pst900", tmp_path, raw=True).train[0][0]["thermal"]
    torch.testing.assert_close(thermal, torch.full((3, 2, 2), 0.2))


def test_a_name_in_both_parts_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for kind in ("rgb", "thermal", "labels"):
            write_picture(tmp_path / "PST900_RGBT_Dataset" / part / kind / "1.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"expected nothing in both train and test, but found \['1\.png'\]"):
        load("pst900", tmp_path)
