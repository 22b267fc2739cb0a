import numpy as np
import pytest
import torch
from PIL import Image

from subsense.data.cwfid import cwfid
from subsense.errors import DataError


@pytest.fixture
def root(tmp_path):
    """Write three scenes of 8 x 12 pixels, two of them to train."""
    folder, draw = tmp_path / "cwfid", np.random.default_rng(0)
    for kind, top in (("red", 256), ("nir", 256), ("label", 3)):
        (folder / kind).mkdir(parents=True)
        for scene in ("001", "002", "003"):
            pixels = draw.integers(0, top, size=(8, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{scene}.png")
    (folder / "train.txt").write_text("001\n002\n")
    (folder / "test.txt").write_text("003\n")
    return tmp_path


def test_counts_and_class_shares_of_the_real_data(shared):
    data = cwfid(shared / "data")
    assert (len(data.train), len(data.test)) == (39, 21)
    targets = torch.cat([data.train.targets, data.test.targets]).flatten()
    share = 100 * targets.bincount() / len(targets)
    torch.testing.assert_close(share, torch.tensor([92.6, 1.6, 5.8]), atol=0.1, rtol=0)


def test_size_applies_to_images_and_labels_alike(root):
    data = cwfid(root, size=(4, 6))
    assert data.modalities == {"red": "1 4 6", "nir": "1 4 6"}
    inputs, target = data.train[0]
    assert inputs["nir"].shape == (1, 4, 6)
    assert target.shape == (4, 6)


def test_labels_are_those_of_the_file_and_never_mixed(root):
    label = torch.from_numpy(np.array(Image.open(root / "cwfid" / "label" / "003.png"))).long()
    assert torch.equal(cwfid(root, size=(8, 12)).test.targets[0], label)
    assert torch.equal(
        cwfid(root, size=(16, 24)).test.targets[0], label.repeat_interleave(2, 0).repeat_interleave(2, 1)
    )


def test_mirrored_images_keep_their_labels_and_leave_the_test_part_alone(root):
    plain, mirrored = cwfid(root, size=(8, 12)), cwfid(root, size=(8, 12), mirrored=True)
    assert (len(mirrored.train), len(mirrored.test)) == (8, 1)
    assert mirrored.train.groups == ("001", "002") * 4
    for number, axes in enumerate([(), (2,), (1,), (1, 2)]):
        inputs, target = mirrored.train[2 * number + 1]
        assert torch.equal(inputs["nir"].flip(axes), plain.train[1][0]["nir"])
        assert torch.equal(target.unsqueeze(0).flip(axes)[0], plain.train[1][1])
    assert torch.equal(mirrored.test.inputs["red"], plain.test.inputs["red"])


def test_channels_are_those_of_the_file(root):
    red = torch.from_numpy(np.array(Image.open(root / "cwfid" / "red" / "003.png"))).float()
    read = cwfid(root, size=(8, 12)).test.inputs["red"][0, 0]
    torch.testing.assert_close((read - read.mean()) / read.std(), (red - red.mean()) / red.std())


def test_standardisation_never_sees_the_test_scenes(root):
    before = cwfid(root, size=(8, 12)).train
    for name in ("red", "nir"):
        Image.new("L", (12, 8), 255).save(root / "cwfid" / name / "003.png")
    after = cwfid(root, size=(8, 12)).train
    assert all(torch.equal(before.inputs[name], after.inputs[name]) for name in before.inputs)
    assert abs(before.inputs["red"].mean().item()) < 1e-5


def test_absent_image_is_named(root):
    (root / "cwfid" / "nir" / "002.png").unlink()
    with pytest.raises(DataError, match=r"expected the file .*nir/002\.png, but there is none"):
        cwfid(root)


def test_damaged_image_is_named(root):
    path = root / "cwfid" / "red" / "001.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cwfid: cannot read .*red/001\.png"):
        cwfid(root)


def test_scene_in_both_parts_is_refused(root):
    (root / "cwfid" / "test.txt").write_text("002\n")
    with pytest.raises(DataError, match=r"no scene in both train\.txt and test\.txt, but found \['002'\]"):
        cwfid(root)


def test_label_beyond_the_classes_is_refused(root):
    Image.new("L", (12, 8), 7).save(root / "cwfid" / "label" / "001.png")
    with pytest.raises(DataError, match=r"expected labels 0 to 2, but found 7"):
        cwfid(root)


@pytest.mark.parametrize("size", [(0, 4), (4,), (-1, -1)])
def test_impossible_size_is_refused(size):
    with pytest.raises(DataError, match=r"expected size=\(height, width\)"):
        cwfid(None, size=size)


def test_a_scene_may_lack_a_channel(root):
    (root / "cwfid/nir/001.png").unlink()
    data = cwfid(root, size=(8, 12), missing="present", mirrored=True)
    assert data.notes == ("train: 1 of 2 samples lack nir.",)
    assert [list(inputs) for inputs, _ in data.train] == [["red"], ["red", "nir"]] * 4
    nir = data.train[1][0]["nir"]
    torch.testing.assert_close(nir.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(nir.std(correction=0), torch.tensor(1.0))
