"""SUN RGB-D as reorganised for segmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from picture_trees import HEIGHT, WIDTH, pixels, write_picture
from subsense.data import load
from subsense.errors import DataError
from subsense.testing import check_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw, place = np.random.default_rng(0), tmp_path / "SUN_RGBD"
    for part, count in (("train", 3), ("test", 2)):
        lines = []
        for number in range(1, count + 1):
            files = (
                f"image/{part}/img-{number:06}.jpg",
                f"depth/{part}/{number:08}.png",
                f"label37/{part}/img37labels-{number:06}.png",
            )
            write_picture(place / files[0], pixels(draw, 3))
            depth = np.full((HEIGHT, WIDTH), 20000, np.uint16)
            depth[0] = 0
            write_picture(place / files[1], depth)
            write_picture(place / files[2], pixels(draw, 1) % 38)
            lines.append(" ".join(files))
        (place / f"{part}37.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_reads_the_layout(root: Path) -> None:
    data = load("sunrgbd", root)
    assert (len(data.train), len(data.test), data.num_classes) == (3, 2, 37)
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)
    inputs, label = data.train[0]
    torch.testing.assert_close(inputs["depth"][:, 1:], torch.full((3, HEIGHT - 1, WIDTH), 0.25))
    assert not inputs["depth"][:, 0].any()
    assert set(label.unique().tolist()) <= {*range(37), 255}


def test_depth_of_the_data_sets_own_files_is_turned_back(root: Path) -> None:
    turned = (2000 << 3) | (2000 >> 13)
    write_picture(root / "SUN_RGBD/depth/train/00000001.png", np.full((HEIGHT, WIDTH), turned, np.uint16))
    depth = load("sunrgbd", root, turned=True, units_per_metre=1000).train[0][0]["depth"]
    torch.testing.assert_close(depth, torch.full((3, HEIGHT, WIDTH), 0.25))


def test_a_missing_file_is_named_or_its_modality_is_missing(root: Path) -> None:
    lost = root / "SUN_RGBD/depth/test/00000002.png"
    lost.unlink()
    with pytest.raises(DataError, match=rf"sunrgbd: expected the file {lost}, but there is none.*https://"):
        load("sunrgbd", root)
    data = load("sunrgbd", root, missing="present")
    assert data.notes == ("test: 1 of 2 samples lack depth.",)
    assert list(data.test[1][0]) == ["rgb"]


def test_what_cannot_be_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="units_per_metre and farthest above 0, but got 0, 8"):
        load("sunrgbd", root, units_per_metre=0)
    write_picture(root / "SUN_RGBD/depth/train/00000001.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DataError, match=r"00000001\.png: expected one channel of 16 bits, but found uint8"):
        load("sunrgbd", root).train[0]
    (root / "SUN_RGBD/train37.txt").write_text("image/train/img-000001.jpg\n")
    with pytest.raises(DataError, match=r"train37\.txt, line 1: expected paths of image, depth and label"):
        load("sunrgbd", root)
