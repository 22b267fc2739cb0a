"""DELIVER in its published layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from picture_trees import HEIGHT, WIDTH, pixels, write_picture
from subsense.data import load
from subsense.data.formats.images import normalise
from subsense.errors import DataError
from subsense.testing import check_dataset

SAMPLES = (
    "cloud/train/MAP_10_point102/045050",
    "night/train/MAP_1_point10_motionblur/000100",
    "cloud/val/MAP_2_point5/000200",
    "sun/test/MAP_3_point7/000300",
    "rain/test/MAP_3_point8_lidarjitter/000400",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name in SAMPLES:
        for folder, word in (("img", "rgb"), ("hha", "depth"), ("lidar", "lidar")):
            write_picture(tmp_path / "DELIVER" / folder / f"{name}_{word}_front.png", pixels(draw, 3))
        write_picture(tmp_path / "DELIVER/event" / f"{name}_event_front.png", pixels(draw, 3, HEIGHT // 2, WIDTH // 2))
        label = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        label[..., 0] = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 26
        label[0, 0, 0] = 255
        write_picture(tmp_path / "DELIVER/semantic" / f"{name}_semantic_front.png", label)
    return tmp_path


def test_reads_the_published_layout(root: Path) -> None:
    data = load("deliver", root)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (2, 1, 2)
    assert data.train.groups == tuple(name.rpartition("/")[0] for name in SAMPLES[:2])
    for part in (data.train, data.val, data.test):
        check_dataset(part, data.modalities)
    inputs, label = data.train[0]
    assert label[0, :4].tolist() == [255, 0, 1, 2]
    assert label[3, 1:3].tolist() == [24, 255]
    assert len(data.class_names) == 25
    assert inputs["event"].shape == (3, HEIGHT, WIDTH)
    assert torch.equal(inputs["event"][:, 0, 0], inputs["event"][:, 1, 1])


def test_colour_alone_is_normalised(root: Path) -> None:
    from PIL import Image

    def written(folder: str, word: str) -> torch.Tensor:
        picture = np.array(Image.open(root / f"DELIVER/{folder}/{SAMPLES[0]}_{word}_front.png"))
        return torch.from_numpy(picture).permute(2, 0, 1) / 255

    inputs, _ = load("deliver", root).train[0]
    torch.testing.assert_close(inputs["rgb"], normalise(written("img", "rgb")))
    torch.testing.assert_close(inputs["depth"], written("hha", "depth"))
    torch.testing.assert_close(inputs["lidar"], written("lidar", "lidar"))


def test_a_case_takes_its_files_alone(root: Path) -> None:
    for word in ("cloud", "fog"):
        with pytest.raises(DataError, match=r"expected samples of the part (val|test|train), but found none"):
            load("deliver", root, case=word)
    with pytest.raises(DataError, match=r"found 'lidar_jitter'.*Did you mean 'lidarjitter'"):
        load("deliver", root, case="lidar_jitter")


def test_a_missing_file_is_named_or_its_modality_is_missing(root: Path) -> None:
    lost = root / f"DELIVER/lidar/{SAMPLES[1]}_lidar_front.png"
    lost.unlink()
    with pytest.raises(DataError, match=rf"expected the file {lost}, but there is none.*https://"):
        load("deliver", root)
    data = load("deliver", root, missing="present", augment={"flip": 1.0, "blur": 1.0})
    assert data.notes == ("train: 1 of 2 samples lack lidar.",)
    assert list(data.train[1][0]) == ["rgb", "depth", "event"]
    check_dataset(data.train, data.modalities)
    with pytest.raises(DataError, match=r"missing to be 'refuse' or 'present', but found 'presnt'.*mean 'present'"):
        load("deliver", root, missing="presnt")


def test_a_sample_with_nothing_left_and_a_label_beyond_the_classes_are_refused(root: Path) -> None:
    write_picture(root / f"DELIVER/semantic/{SAMPLES[0]}_semantic_front.png", np.full((HEIGHT, WIDTH), 26, np.uint8))
    with pytest.raises(DataError, match=r"_semantic_front\.png: expected labels 0 to 24, or 255, but found 25"):
        load("deliver", root).train[0]
    for folder, word in (("img", "rgb"), ("hha", "depth"), ("lidar", "lidar"), ("event", "event")):
        (root / f"DELIVER/{folder}/{SAMPLES[3]}_{word}_front.png").unlink()
    with pytest.raises(DataError, match=r"or another modality of the same sample, but there is none"):
        load("deliver", root, missing="present")
