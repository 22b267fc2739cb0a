"""KITTI road: a camera, and the lidar's points where it sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from picture_trees import write_picture
from subsense.data import kitti_road, load
from subsense.errors import DataError
from subsense.testing import check_dataset

NAMES = [f"{kind}_{number:06}" for kind in ("um", "umm", "uu") for number in range(4)]
HEIGHT, WIDTH = 12, 20
CALIBRATION = """P0: 1 0 0 0 0 1 0 0 0 0 1 0
P2: 10 0 10 0 0 10 6 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0

"""
POINTS = [[8, 0, 0, 0.5], [16, 0, 0, 0.9], [8, 4, 1.2, 0.25], [-5, 0, 0, 1], [8, 80, 0, 1]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kitti_road, "SIZE", (10, 18))
    place, draw = tmp_path / "data_road/training", np.random.default_rng(0)
    for name in NAMES:
        kind, _, number = name.partition("_")
        write_picture(place / f"image_2/{name}.png", draw.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
        truth = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        truth[4:], truth[8:] = (255, 0, 0), (255, 0, 255)
        write_picture(place / f"gt_image_2/{kind}_road_{number}.png", truth)
        write_picture(place / f"gt_image_2/{kind}_lane_{number}.png", truth)
        for folder in ("calib", "velodyne"):
            (place / folder).mkdir(exist_ok=True)
        (place / f"calib/{name}.txt").write_text(CALIBRATION)
        np.array(POINTS, "<f4").tofile(place / f"velodyne/{name}.bin")
    return tmp_path


def test_reads_both_kits(root: Path) -> None:
    data = load("kitti-road", root, test_share=0.25)
    assert (len(data.train), len(data.test)) == (9, 3)
    assert [name.partition("_")[0] for name in data.test.groups] == ["um", "umm", "uu"]
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)
    _, label = data.train[0]
    assert label.shape == (10, 18)
    assert label[:, 0].tolist() == [255] * 2 + [0] * 4 + [1] * 4


def test_points_are_drawn_where_the_camera_sees_them_the_nearest_first(root: Path) -> None:
    lidar = load("kitti-road", root).train[0][0]["lidar"]
    # straight ahead: column 10, row 6; two rows are cut off above
    torch.testing.assert_close(lidar[:, 4, 10], torch.tensor([8 / 80, 0.5, 0.5]))
    # 4 m to the left and 1.2 m up at 8 m: column 10 - 5, row 6 - 1.5 is in row 4
    torch.testing.assert_close(lidar[:, 2, 5], torch.tensor([8 / 80, 0.7, 0.25]))
    assert int(lidar.any(0).sum()) == 2


def test_a_missing_file_is_named_or_its_modality_is_missing(root: Path) -> None:
    lost = root / "data_road/training/velodyne/um_000001.bin"
    lost.unlink()
    with pytest.raises(DataError, match=rf"kitti-road: expected the file {lost}, but there is none.*https://"):
        load("kitti-road", root)
    data = load("kitti-road", root, missing="present")
    assert [note.partition(": ")[2] for note in data.notes] in (
        ["1 of 9 samples lack lidar."],
        ["1 of 3 samples lack lidar."],
    )
    found = {name: list(part[index][0]) for part in (data.train, data.test) for index, name in enumerate(part.groups)}
    assert found["um_000001"] == ["rgb"]
    assert found["um_000002"] == ["rgb", "lidar"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("calib/{}.txt", b"P2: 1 2\n", r"expected a line 'P2' of 12 numbers, but there is none"),
        ("calib/{}.txt", b"P2: a b\n", r"cannot read .*\.txt"),
        ("velodyne/{}.bin", b"abc", r"expected four finite float32 for each point, but found 0 values"),
    ],
)
def test_a_damaged_file_is_named(root: Path, file: str, content: bytes, message: str) -> None:
    data = load("kitti-road", root)
    name = data.train.groups[0]
    (root / "data_road/training" / file.format(name)).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{message}|{message}"):
        data.train[0]
