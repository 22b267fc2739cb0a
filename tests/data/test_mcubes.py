import numpy as np
import pytest
import torch

from picture_trees import pixels, read, write_array, write_lists, write_picture
from subsense.data.formats.images import normalise
from subsense.data.mcubes import FILES, mcubes
from subsense.errors import DataError
from subsense.testing import check_dataset

HEIGHT, WIDTH = 6, 200  # 192 columns are cut off, which leaves 8
PARTS = {"train": ["outscene1208_2_0000000150", "b"], "val": ["c"], "test": ["d"]}


@pytest.fixture
def root(tmp_path):
    """Write the tree as published."""
    folder, draw = tmp_path / "mcubes", np.random.default_rng(0)
    for name in [name for part in PARTS.values() for name in part]:
        angle = draw.uniform(-np.pi, np.pi, (HEIGHT, WIDTH))
        write_picture(folder / "polL_color" / f"{name}.png", pixels(draw, 3, HEIGHT, WIDTH))
        write_array(folder / "polL_aolp_sin" / f"{name}.npy", np.sin(angle))
        write_array(folder / "polL_aolp_cos" / f"{name}.npy", np.cos(angle))
        write_array(folder / "polL_dolp" / f"{name}.npy", draw.uniform(0, 1, (HEIGHT, WIDTH)))
        write_picture(folder / "NIR_warped" / f"{name}.png", pixels(draw, 1, HEIGHT, WIDTH))
        label = pixels(draw, 1, HEIGHT, WIDTH) % 20
        label[0, -5] = 255
        write_picture(folder / "GT" / f"{name}.png", label)
    write_lists(folder / "list_folder", PARTS | {"all": []})
    return tmp_path


def test_counts_and_shapes(root):
    data = mcubes(root)
    assert [len(part) for part in (data.train, data.val, data.test)] == [2, 1, 1]
    assert data.num_classes == 20
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)
        inputs, label = part[0]
        assert {tuple(image.shape) for image in inputs.values()} == {(3, 6, 6)}
        assert label.shape == (6, 6)


def test_the_square_in_the_middle_of_what_near_infrared_sees(root):
    inputs, label = mcubes(root).test[0]
    columns = slice(193, 199)
    assert torch.equal(label, torch.from_numpy(read(root / "mcubes/GT/d.png")[:, columns]).long())
    assert label[0, 2] == 255
    colour = torch.from_numpy(read(root / "mcubes/polL_color/d.png")[:, columns]).float() / 255
    torch.testing.assert_close(inputs["rgb"], normalise(colour.permute(2, 0, 1)))
    near = torch.from_numpy(read(root / "mcubes/NIR_warped/d.png")[:, columns]).float() / 255
    torch.testing.assert_close(inputs["nir"], near.expand(3, -1, -1))


def test_the_angle_is_packed_as_sine_cosine_sine(root):
    aolp, dolp = (mcubes(root).test[0][0][name] for name in ("aolp", "dolp"))
    sine, cosine = (np.load(root / f"mcubes/polL_aolp_{kind}/d.npy")[:, 193:199] for kind in ("sin", "cos"))
    torch.testing.assert_close(aolp, torch.from_numpy(np.stack([sine, cosine, sine])).float())
    torch.testing.assert_close(aolp[0] ** 2 + aolp[1] ** 2, torch.ones(6, 6))
    assert torch.equal(dolp[0], dolp[1])


def test_training_pictures_that_are_augmented_keep_their_width(root):
    inputs, label = mcubes(root, augment={"flip": 1.0}).train[0]
    written = torch.from_numpy(read(root / "mcubes/GT/outscene1208_2_0000000150.png")[:, 192:]).long()
    assert torch.equal(label, written.flip(-1))
    assert inputs["nir"].shape == (3, 6, 8)


def test_sixteen_bits_are_read_in_full(root):
    grey = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    write_picture(root / "mcubes/NIR_warped/d.png", grey)
    read_back = mcubes(root).test[0][0]["nir"][1] * 65535
    torch.testing.assert_close(read_back, torch.from_numpy(grey[:, 193:199].astype(np.float32)), atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_file_is_named(root, kind):
    file = FILES[kind].format("c")
    (root / "mcubes" / file).unlink()
    with pytest.raises(DataError, match=rf"expected the file .*mcubes/{file}, but there is none.*kyotovision-public"):
        mcubes(root)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4)), np.zeros((6, 200), dtype=int), np.array([{}])])
def test_an_array_of_another_kind_is_refused(root, array):
    np.save(root / "mcubes/polL_dolp/d.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"polL_dolp/d\.npy"):
        mcubes(root).test[0]


def test_a_sample_may_lack_modalities(root):
    (root / "mcubes" / FILES["aolp_cos"].format("b")).unlink()
    (root / "mcubes" / FILES["rgb"].format("d")).unlink()
    (root / "mcubes" / FILES["nir"].format("d")).unlink()
    data = mcubes(root, missing="present", augment={"photometric": 1.0, "blur": 1.0})
    assert data.notes == (
        "train: 1 of 2 samples lack aolp.", "test: 1 of 1 samples lack nir.", "test: 1 of 1 samples lack rgb."
    )  # fmt: skip
    assert list(data.train[1][0]) == ["rgb", "dolp", "nir"]
    assert list(data.test[0][0]) == ["aolp", "dolp"]
    check_dataset(data.train, data.modalities)
    (root / "mcubes" / FILES["label"].format("d")).unlink()
    with pytest.raises(DataError, match=r"GT/d\.png, but there is none, and a label is needed"):
        mcubes(root, missing="present")
