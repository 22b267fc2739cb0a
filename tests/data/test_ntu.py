"""NTU RGB+D: which samples there are, how they are split, and what is read of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from subsense.data import load
from subsense.data.ntu import NO_SKELETON, TRAINING_SUBJECTS, ntu
from subsense.errors import DataError
from subsense.testing import check_dataset

NAMES = (  # subjects 1 and 2 train, 3 tests; cameras 2 and 3 train, 1 tests
    "S001C001P001R001A001",
    "S001C002P001R002A060",
    "S001C003P002R001A007",
    "S017C001P003R001A002",
)
FRAMES, HEIGHT, WIDTH = 6, 9, 16
SMALL: dict[str, Any] = {"frames": 3, "size": (8, 8)}
EVERYTHING = ("rgb", "depth", "skeleton")


def write_skeleton(path: Path, bodies: list[dict[str, Any]], frames: int = FRAMES) -> None:
    """Write bodies as the data set does: each has a number, the frames in which it is seen, and a step per frame."""
    lines = [str(frames)]
    for frame in range(frames):
        seen = [body for body in bodies if frame in body["frames"]]
        lines.append(str(len(seen)))
        for body in seen:
            lines += [f"{body['number']} 0 1 1 1 1 0 0.011 -0.23 2", "25"]
            for joint in range(25):
                place = [body.get("left", 0) + joint * body.get("wide", 0.1), frame * body["step"], 3.5]
                lines.append(" ".join(map(str, [*place, 277.4, 191.2, 1036.2, 519.1, 0.2, 0.03, 0.9, -0.07, 2])))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "ntu"
    for number, name in enumerate(NAMES):
        colour = folder / "nturgb+d_rgb" / f"{name}_rgb"
        depth = folder / "nturgb+d_depth_masked" / name
        for place in (colour, depth):
            place.mkdir(parents=True)
        for frame in range(FRAMES):
            pixels = np.full((HEIGHT, WIDTH, 3), 40 * frame + number, np.uint8)
            Image.fromarray(pixels).save(colour / f"{frame:06d}.png")
            millimetres = np.zeros((HEIGHT, WIDTH), np.uint16)
            millimetres[:, WIDTH // 2 :] = 1000 * frame
            Image.fromarray(millimetres).save(depth / f"MDepth-{frame + 1:08d}.png")
        skeletons = folder / "nturgb+d_skeletons"
        skeletons.mkdir(exist_ok=True)
        still = {"number": 72057594037931101, "frames": range(FRAMES), "step": 0.0}
        mover = {"number": 72057594037931102, "frames": range(2, FRAMES), "step": 0.5}
        write_skeleton(skeletons / f"{name}.skeleton", [still, mover])
    return tmp_path


def test_the_papers_subjects_train(root: Path) -> None:
    data = ntu(root, **SMALL)
    assert (data.train.groups, data.test.groups) == (("subject 1", "subject 1", "subject 2"), ("subject 3",))
    assert [int(target) for _, target in data.train] == [0, 59, 6]
    assert len(TRAINING_SUBJECTS) == 20
    assert data.class_names[0] == "drink water"
    assert data.class_names[59] == "walking apart from each other"
    assert data.num_classes == 60


def test_the_first_camera_tests_across_views(root: Path) -> None:
    data = ntu(root, split="cross-view", **SMALL)
    assert (data.train.groups, data.test.groups) == (("camera 2", "camera 3"), ("camera 1", "camera 1"))


def test_samples_fit_what_is_declared(root: Path) -> None:
    data = ntu(root, modalities=EVERYTHING, **SMALL)
    assert data.modalities == {"rgb": "3 3 8 8", "depth": "1 3 8 8", "skeleton": "3 2 25 3"}
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)


def test_frames_are_the_middles_of_equal_parts(root: Path) -> None:
    inputs, _ = ntu(root, **SMALL).train[2]
    grey = torch.tensor([40 * frame + 2 for frame in (1, 3, 5)])
    torch.testing.assert_close(inputs["rgb"].amax((0, 2, 3)), grey / 127.5 - 1)
    assert torch.equal(inputs["rgb"].amax((0, 2, 3)), inputs["rgb"].amin((0, 2, 3)))


def test_depth_is_a_share_of_the_farthest_and_its_edges_stay_sharp(root: Path) -> None:
    depth = ntu(root, **SMALL).train[0][0]["depth"]
    torch.testing.assert_close(depth[0, 1, 0], torch.tensor([0.0] * 4 + [3000 / 4500] * 4))
    assert depth[0, 2, 0, 7] == 1  # beyond the farthest


def test_a_clip_shorter_than_asked_repeats_frames(root: Path) -> None:
    assert ntu(root, frames=12, size=(8, 8)).train[0][0]["rgb"].shape == (3, 12, 8, 8)


def test_the_body_that_moves_most_is_the_first(root: Path) -> None:
    skeleton = ntu(root, modalities=EVERYTHING, **SMALL).train[0][0]["skeleton"]
    assert skeleton[:, 0, 4, 1].tolist() == [0.0, 1.5, 2.5]  # not yet seen in frame 1
    torch.testing.assert_close(skeleton[:, 1, 4], torch.tensor([0.4, 0.0, 3.5]).expand(3, 3))


def test_one_body_leaves_the_second_zero(root: Path) -> None:
    path = root / "ntu" / "nturgb+d_skeletons" / f"{NAMES[0]}.skeleton"
    write_skeleton(path, [{"number": 1, "frames": range(FRAMES), "step": 1.0}])
    skeleton = ntu(root, modalities=EVERYTHING, **SMALL).train[0][0]["skeleton"]
    assert skeleton[:, 0].any()
    assert not skeleton[:, 1].any()


def bodies_of(root: Path, bodies: list[dict[str, Any]], frames: int = 60) -> torch.Tensor:
    write_skeleton(root / "ntu" / "nturgb+d_skeletons" / f"{NAMES[0]}.skeleton", bodies, frames)
    data = ntu(root, modalities=("skeleton", "rgb"), frames=frames, size=(8, 8))
    skeleton = data.train[0][0]["skeleton"]
    assert isinstance(skeleton, torch.Tensor)
    return skeleton


def body(number: int, first: int, last: int, **place: float) -> dict[str, Any]:
    return {"number": number, "frames": range(first, last), "step": 0.01} | place


def test_two_people_renumbered_halfway_keep_their_slots(root: Path) -> None:
    people = [body(1, 0, 30), body(2, 0, 30, left=3), body(3, 30, 60, left=3), body(4, 30, 60)]
    skeleton = bodies_of(root, people)
    assert skeleton.abs().sum((2, 3)).gt(0).all()
    assert sorted(skeleton[0, :, 0, 0].tolist()) == [0, 3]
    assert (skeleton[:, :, 0, 0] == skeleton[0, :, 0, 0]).all()


def test_one_person_replaced_by_two_leaves_no_frame_empty(root: Path) -> None:
    skeleton = bodies_of(root, [body(1, 0, 30), body(2, 30, 60, left=2), body(3, 30, 60, left=0.1)])
    assert skeleton.abs().sum((2, 3)).gt(0).sum(1).tolist() == [1] * 30 + [2] * 30
    torch.testing.assert_close(skeleton[29:31, 0, 0, 0], torch.tensor([0.0, 0.1]))
    assert (skeleton[30:, 1, 0, 0] == 2).all()


def test_a_body_lost_for_a_while_comes_back_to_its_slot(root: Path) -> None:
    skeleton = bodies_of(root, [body(1, 0, 60), body(2, 0, 20, left=3, step=0.1), body(2, 40, 60, left=3, step=0.1)])
    assert skeleton[:, 0].abs().sum((1, 2)).gt(0).tolist() == [True] * 20 + [False] * 20 + [True] * 20
    assert (skeleton[:, 1, 0, 0] == 0).all()
    assert skeleton[:, 1].any(-1).any(-1).all()


def test_a_wide_thing_that_stands_still_is_no_person(root: Path) -> None:
    ghost = body(1, 0, 60, left=-5, wide=1.0, step=0.0)
    skeleton = bodies_of(root, [ghost, body(2, 0, 60), body(3, 0, 60, left=3)])
    assert sorted(skeleton[0, :, 0, 0].tolist()) == [0, 3]


def test_folders_may_be_called_otherwise(root: Path) -> None:
    (root / "ntu" / "nturgb+d_rgb").rename(root / "ntu" / "Images")
    with pytest.raises(DataError, match=r"expected the folder .*ntu/nturgb\+d_rgb, but there is none.*https://rose1"):
        ntu(root)
    assert len(ntu(root, folders={"rgb": "Images"}).train) == 3


def test_samples_of_the_larger_set_are_not_counted(root: Path) -> None:
    for name in ("S018C001P008R001A061", "S018C001P008R001A001"):
        (root / "ntu" / "nturgb+d_rgb" / f"{name}_rgb").mkdir()
        (root / "ntu" / "nturgb+d_depth_masked" / name).mkdir()
    assert len(ntu(root).train) == 3


def test_the_published_list_leaves_samples_out(root: Path) -> None:
    with pytest.raises(DataError, match=f"expected the file .*{NO_SKELETON}.*NTURGB-D"):
        ntu(root, leave_out_missing_skeletons=True)
    heading = 'missing or incomplete skeleton data in the "NTU RGB+D" dataset.\n\n'
    (root / "ntu" / NO_SKELETON).write_text(f"{heading}{NAMES[1]}\nS001C003P002R001A055\n")
    data = ntu(root, leave_out_missing_skeletons=True)
    assert [int(target) for _, target in data.train] == [0, 6]
    (root / "ntu" / NO_SKELETON).write_text(heading)
    with pytest.raises(DataError, match="expected names such as"):
        ntu(root, leave_out_missing_skeletons=True)


def test_a_sample_that_one_modality_lacks_is_named(root: Path) -> None:
    shutil.rmtree(root / "ntu" / "nturgb+d_depth_masked" / NAMES[2])
    with pytest.raises(DataError, match=rf"expected .*nturgb\+d_depth_masked/{NAMES[2]}, which other modalities have"):
        ntu(root)


def test_a_sample_may_lack_a_modality(root: Path) -> None:
    shutil.rmtree(root / "ntu" / "nturgb+d_depth_masked" / NAMES[2])
    (root / "ntu" / "nturgb+d_skeletons" / f"{NAMES[3]}.skeleton").unlink()
    data = ntu(root, modalities=EVERYTHING, missing="present", **SMALL)
    assert data.notes == ("train: 1 of 3 samples lack depth.", "test: 1 of 1 samples lack skeleton.")
    assert list(data.train[2][0]) == ["rgb", "skeleton"]
    assert list(data.test[0][0]) == ["rgb", "depth"]
    check_dataset(data.train, data.modalities)


def test_videos_are_to_be_taken_apart_first(root: Path) -> None:
    shutil.rmtree(root / "ntu" / "nturgb+d_rgb")
    (root / "ntu" / "nturgb+d_rgb").mkdir()
    (root / "ntu" / "nturgb+d_rgb" / f"{NAMES[0]}_rgb.avi").touch()
    with pytest.raises(DataError, match="holds videos; take their frames out first"):
        ntu(root)


def test_a_split_without_samples_is_refused(root: Path) -> None:
    for folder, ending in (("nturgb+d_rgb", "_rgb"), ("nturgb+d_depth_masked", "")):
        shutil.rmtree(root / "ntu" / folder / f"{NAMES[3]}{ending}")
    with pytest.raises(DataError, match="no sample of the cross-subject split's test part"):
        ntu(root)


def test_a_clip_without_frames_is_named(root: Path) -> None:
    for path in (root / "ntu" / "nturgb+d_rgb" / f"{NAMES[0]}_rgb").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"expected frames in .*{NAMES[0]}_rgb, but there are none"):
        ntu(root, **SMALL).train[0]


def test_a_damaged_frame_is_named(root: Path) -> None:
    path = root / "ntu" / "nturgb+d_rgb" / f"{NAMES[0]}_rgb" / "000001.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"cannot read .*_rgb/000001\.png"):
        ntu(root, **SMALL).train[0]


def test_depth_of_eight_bits_is_refused(root: Path) -> None:
    path = root / "ntu" / "nturgb+d_depth_masked" / NAMES[0] / "MDepth-00000002.png"
    Image.new("L", (WIDTH, HEIGHT), 9).save(path)
    with pytest.raises(DataError, match=r"MDepth-00000002\.png: expected a depth map of 16 bits.*mode 'L'"):
        ntu(root, **SMALL).train[0]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot read .*(ends too early|could not convert)"),
        (lambda text: text + "7\n", "goes on after its 6 frames"),
        (lambda text: text.replace("\n25\n", "\n20\n"), "expected 25 joints, but found 20"),
        (lambda text: text.replace("3.5 ", "nan "), "a joint's place is not a number"),
        (lambda text: "an error page", "cannot read .*invalid literal"),
        (lambda text: "2\n0\n0\n", "has no skeleton; leave_out_missing_skeletons=True"),
        (lambda text: "", "ends too early"),
    ],
)
def test_a_harmed_skeleton_file_is_refused(root: Path, harm: Callable[[str], str], message: str) -> None:
    path = root / "ntu" / "nturgb+d_skeletons" / f"{NAMES[0]}.skeleton"
    path.write_text(harm(path.read_text()))
    with pytest.raises(DataError, match=rf"{NAMES[0]}\.skeleton.*{message}|{message}"):
        ntu(root, modalities=EVERYTHING, **SMALL).train[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ("rgb", "dept")}, r"got 'dept'\. Did you mean 'depth'\?"),
        ({"modalities": ("rgb", "rgb")}, "each modality at most once"),
        ({"modalities": ()}, "at least one"),
        ({"split": "cross-setup"}, "expected split 'cross-subject' or 'cross-view'"),
        ({"frames": 0}, "from 1, but got 0"),
        ({"size": (8,)}, "from 1, but got 16"),
        ({"folders": {"colour": "x"}}, "got 'colour'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("ntu", **options)
