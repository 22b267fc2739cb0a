import numpy as np
import pytest
import torch
from scipy.io import savemat

from picture_trees import HEIGHT, WIDTH, pixels, read, write_lists, write_picture
from subsense.data.formats.hha import encode_hha
from subsense.data.formats.images import normalise
from subsense.data.nyudv2 import CAMERA, nyudv2
from subsense.errors import DataError
from subsense.testing import check_dataset

NUM, TRAIN, TEST = 5, [1, 4], [2, 3, 5]
SCENES = ["kitchen_0001", "office_0002", "office_0002", "kitchen_0001", "office_0002"]


def draw_depth(draw):
    depth = draw.uniform(1, 4, (HEIGHT, WIDTH))
    raw = depth * (draw.random((HEIGHT, WIDTH)) < 0.8)
    return depth, raw


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0)
    depths = [draw_depth(draw) for _ in range(NUM)]
    return {
        "images": np.stack([pixels(draw, 3) for _ in range(NUM)]),
        "depths": np.stack([depth for depth, _ in depths]),
        "rawDepths": np.stack([raw for _, raw in depths]),
        "labels": draw.integers(0, 895, (NUM, HEIGHT, WIDTH), dtype=np.uint16),
    }


@pytest.fixture
def classes():
    return np.random.default_rng(1).integers(1, 41, 894)


@pytest.fixture
def published(tmp_path, arrays, classes):
    """Write the three Matlab files as they are published: Matlab's axes are h5py's in reverse."""
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "nyudv2"
    folder.mkdir()
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = arrays["images"].transpose(0, 3, 2, 1)
        for name in ("depths", "rawDepths", "labels"):
            file[name] = arrays[name].transpose(0, 2, 1)
        places = file.create_dataset("scenes", (1, NUM), dtype=h5py.ref_dtype)
        for number, scene in enumerate(SCENES):
            text = file.create_dataset(
                f"#refs#/{number}", data=np.array([[ord(one)] for one in scene], dtype=np.uint16)
            )
            places[0, number] = text.ref
    savemat(folder / "splits.mat", {"trainNdxs": np.array([TRAIN]).T, "testNdxs": np.array([TEST]).T})
    savemat(folder / "classMapping40.mat", {"mapClass": classes[None].astype(float), "className": ["a"]})
    return tmp_path


@pytest.fixture
def folders(tmp_path, arrays):
    """Write RGB, HHA and labels in folders, as CMNeXt's loader has them."""
    folder, draw = tmp_path / "nyudv2", np.random.default_rng(0)
    for number, image in enumerate(arrays["images"]):
        write_picture(folder / "RGB" / f"{number}.png", image)
        write_picture(folder / "HHA" / f"{number}.png", pixels(draw, 3))
        label = (arrays["labels"][number] % 41).astype(np.uint8)
        label[0, 0], label[0, 1] = 0, 255
        write_picture(folder / "Label" / f"{number}.png", label)
    write_lists(folder, {"train": ["0", "3"], "test": ["1", "RGB/2.png Label/2.png", "4"]})
    return tmp_path


def test_reads_the_published_file(published, arrays, classes):
    data = nyudv2(published)
    assert (len(data.train), len(data.test), data.val) == (2, 3, None)
    assert data.train.groups == ("kitchen_0001", "kitchen_0001")
    assert not set(data.train.groups) & set(data.test.groups)
    check_dataset(data.train, data.modalities)
    for part, numbers in ((data.train, TRAIN), (data.test, TEST)):
        for (inputs, label), number in zip(part, numbers, strict=True):
            image = torch.from_numpy(arrays["images"][number - 1]).permute(2, 0, 1) / 255
            torch.testing.assert_close(inputs["rgb"], normalise(image))
            raw = arrays["labels"][number - 1].astype(int)
            assert label.tolist() == np.where(raw == 0, 255, classes[raw - 1] - 1).tolist()


def test_depth_is_encoded_as_hha_where_it_was_measured(published, arrays):
    inputs, _ = nyudv2(published).test[1]
    depth, raw = arrays["depths"][2], arrays["rawDepths"][2]
    expected = encode_hha(depth, CAMERA, raw > 0)
    assert (raw == 0).any()
    assert np.array_equal(np.rint(inputs["depth"].permute(1, 2, 0).numpy() * 255), expected)
    assert not np.array_equal(expected, encode_hha(depth, CAMERA))


def test_computed_hha_is_kept(published, tmp_path, monkeypatch):
    data = nyudv2(published, cache=tmp_path / "hha")
    first = data.test[0][0]["depth"]
    assert [path.name for path in (tmp_path / "hha").iterdir()] == ["0002.png"]
    monkeypatch.setattr("subsense.data.nyudv2.encode_hha", None)
    assert torch.equal(data.test[0][0]["depth"], first)


def test_reads_folders_of_pictures(folders, arrays):
    data = nyudv2(folders)
    assert (len(data.train), len(data.test)) == (2, 3)
    assert data.test.groups == ("1", "2", "4")
    inputs, label = data.test[1]
    torch.testing.assert_close(inputs["rgb"], normalise(torch.from_numpy(arrays["images"][2]).permute(2, 0, 1) / 255))
    hha = torch.from_numpy(read(folders / "nyudv2/HHA/2.png")).permute(2, 0, 1) / 255
    torch.testing.assert_close(inputs["depth"], hha)
    written = torch.from_numpy(read(folders / "nyudv2/Label/2.png")).long()
    assert label[0, :2].tolist() == [255, 255]
    counted = label != 255
    assert torch.equal(label[counted], written[counted] - 1)
    assert set(written[~counted].tolist()) <= {0, 255}
    check_dataset(data.train, data.modalities)


@pytest.mark.parametrize("units", [1000.0, 10000.0])
def test_hha_is_computed_from_depth_pictures(folders, units):
    (folders / "nyudv2" / "HHA").rename(folders / "HHA")
    depth = np.random.default_rng(0).integers(0, 40000, (HEIGHT, WIDTH), dtype=np.uint16)
    for number in range(NUM):
        write_picture(folders / "nyudv2" / "Depth" / f"{number}.png", depth)
    inputs, _ = nyudv2(folders, units_per_metre=units).train[0]
    expected = encode_hha(depth / units, CAMERA, depth > 0)
    assert np.array_equal(np.rint(inputs["depth"].permute(1, 2, 0).numpy() * 255), expected)


@pytest.mark.parametrize("file", ["splits.mat", "classMapping40.mat"])
def test_a_missing_matlab_file_is_named(published, file):
    (published / "nyudv2" / file).unlink()
    with pytest.raises(DataError, match=rf"expected the file .*nyudv2/{file}, but there is none.*silberman"):
        nyudv2(published)


@pytest.mark.parametrize("file", ["RGB/0.png", "HHA/4.png", "Label/2.png", "test.txt"])
def test_a_missing_picture_is_named(folders, file):
    (folders / "nyudv2" / file).unlink()
    with pytest.raises(DataError, match=rf"expected the file .*nyudv2/{file}, but there is none"):
        nyudv2(folders)


def test_without_pictures_of_depth_they_are_named(folders):
    (folders / "nyudv2" / "HHA").rename(folders / "nyudv2" / "hha")
    with pytest.raises(DataError, match=r"expected the file .*nyudv2/Depth/0\.png"):
        nyudv2(folders)


def test_what_is_no_matlab_file_is_named(published):
    for file in ("splits.mat", "nyu_depth_v2_labeled.mat"):
        (published / "nyudv2" / file).write_bytes(b"not a matrix")
        with pytest.raises(DataError, match=rf"cannot read .*{file}"):
            nyudv2(published)


def test_a_file_that_lacks_an_array_is_refused(published):
    import h5py

    with h5py.File(published / "nyudv2/nyu_depth_v2_labeled.mat", "a") as file:
        del file["rawDepths"]
    with pytest.raises(DataError, match=r"nyu_depth_v2_labeled\.mat: expected an array 'rawDepths'"):
        nyudv2(published)


def test_a_split_that_shares_a_picture_is_refused(published):
    savemat(published / "nyudv2/splits.mat", {"trainNdxs": [[1], [2]], "testNdxs": [[2], [3]]})
    with pytest.raises(DataError, match=r"splits\.mat: expected each of 1 to 5 at most once"):
        nyudv2(published)


def test_a_mapping_to_other_classes_is_refused(published):
    savemat(published / "nyudv2/classMapping40.mat", {"mapClass": np.arange(894.0)[None]})
    with pytest.raises(DataError, match=r"classMapping40\.mat: expected mapClass to give 1 to 40"):
        nyudv2(published)


def test_a_label_beyond_the_mapping_is_refused(published):
    savemat(published / "nyudv2/classMapping40.mat", {"mapClass": np.ones((1, 10))})
    with pytest.raises(DataError, match="expected labels up to 10, but found"):
        nyudv2(published).test[0]


def test_without_h5py_it_says_what_to_install(published, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs h5py: pip install 'subsense\[nyudv2\]'"):
        nyudv2(published)


def test_a_depth_picture_of_eight_bits_is_refused(folders):
    (folders / "nyudv2" / "HHA").rename(folders / "nyudv2" / "Depth")
    with pytest.raises(DataError, match=r"Depth/0\.png: expected one channel of 16 bits, but found uint8"):
        nyudv2(folders).train[0]


def test_impossible_units_are_refused(folders):
    with pytest.raises(DataError, match="units_per_metre: expected a number above 0"):
        nyudv2(folders, units_per_metre=0)


def test_a_sample_may_lack_colour_or_depth(folders):
    (folders / "nyudv2/RGB/2.png").unlink()
    data = nyudv2(folders, missing="present")
    lacking = [list(inputs) == ["depth"] for part in (data.train, data.test) for inputs, _ in part]
    assert sum(lacking) == len(data.notes) == 1
    assert data.notes[0].endswith("samples lack rgb.")
