import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from picture_trees import HEIGHT, WIDTH, pixels, read, write_lists, write_picture
from subsense.cli import app
from subsense.data.formats.images import IMAGENET_DEVIATION, IMAGENET_MEAN
from subsense.data.mfnet import mfnet
from subsense.errors import DataError
from subsense.testing import check_dataset

PARTS = {"train": ["00001D", "00002N", "00001D_flip"], "val": ["00003D"], "test": ["00004N", "00005D"]}
NAMES = [name for part in PARTS.values() for name in part]


@pytest.fixture
def published(tmp_path):
    """Write the tree as the authors publish it: one file of four channels, labels, three lists."""
    draw = np.random.default_rng(0)
    for name in NAMES:
        write_picture(tmp_path / "mfnet" / "images" / f"{name}.png", pixels(draw, 4))
        write_picture(tmp_path / "mfnet" / "labels" / f"{name}.png", pixels(draw, 1) % 9)
    write_lists(tmp_path / "mfnet", PARTS)
    return tmp_path


@pytest.fixture(params=[("ther", ".png"), ("thermal", ".png"), ("ther", ".jpg")])
def folders(request, published):
    """Write the same pictures as CMNeXt's loader has them: colour and thermal in folders of their own."""
    thermal, ending = request.param
    images = published / "mfnet" / "images"
    for file in images.iterdir():
        array = read(file)
        write_picture(published / "mfnet" / "rgb" / f"{file.stem}{ending}", np.ascontiguousarray(array[..., :3]))
        write_picture(published / "mfnet" / thermal / f"{file.stem}{ending}", np.ascontiguousarray(array[..., 3]))
    images.rename(published / "images")
    return published, ending


def expected(root, name):
    array = torch.from_numpy(read(root / name)).float().permute(2, 0, 1) / 255
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_DEVIATION)
    return (array[:3] - mean.view(3, 1, 1)) / deviation.view(3, 1, 1), array[3:].repeat(3, 1, 1)


def test_reads_the_published_form(published):
    data = mfnet(published)
    assert [len(part) for part in (data.train, data.val, data.test)] == [3, 1, 2]
    inputs, label = data.test[1]
    rgb, thermal = expected(published, "mfnet/images/00005D.png")
    torch.testing.assert_close(inputs["rgb"], rgb)
    torch.testing.assert_close(inputs["thermal"], thermal)
    assert torch.equal(label, torch.from_numpy(read(published / "mfnet/labels/00005D.png")).long())
    check_dataset(data.train, data.modalities)


def test_reads_folders_of_colour_and_thermal(folders):
    root, ending = folders
    data = mfnet(root)
    inputs, label = data.train[1]
    rgb, thermal = expected(root, "images/00002N.png")
    if ending == ".png":
        torch.testing.assert_close(inputs["rgb"], rgb)
        torch.testing.assert_close(inputs["thermal"], thermal)
    assert inputs["rgb"].shape == inputs["thermal"].shape == (3, HEIGHT, WIDTH)
    assert (inputs["thermal"][0] == inputs["thermal"][2]).all()
    assert label.max() <= 8


def test_a_mirror_image_belongs_to_its_picture(published):
    assert mfnet(published).train.groups == ("00001D", "00002N", "00001D")


def test_a_mirror_image_that_is_no_file_is_made_of_its_picture(published):
    written = mfnet(published).train[2][0]["rgb"]
    for kind in ("images", "labels"):
        (published / "mfnet" / kind / "00001D_flip.png").unlink()
    train = mfnet(published).train
    assert train.groups == ("00001D", "00002N", "00001D")
    (plain, label), (mirrored, mirrored_label) = train[0], train[2]
    for name in ("rgb", "thermal"):
        assert torch.equal(mirrored[name], plain[name].flip(-1))
    assert torch.equal(mirrored_label, label.flip(-1))
    assert not torch.equal(written, mirrored["rgb"])
    assert "_flip" in succeed("ls", "data", "mfnet")


def test_half_a_mirror_image_is_refused_and_so_is_one_of_nothing(published):
    (published / "mfnet/labels/00001D_flip.png").unlink()
    with pytest.raises(DataError, match=r"expected the file .*labels/00001D_flip\.png, but there is none"):
        mfnet(published)
    write_lists(published / "mfnet", {"train": ["00009D_flip"]})
    with pytest.raises(DataError, match=r"expected the file .*images/00009D\.png, but there is none"):
        mfnet(published)


def test_dots_belong_to_names_and_a_byte_order_mark_does_not(published):
    names = ["cam.01", "1560244315.996"]
    for name in names:
        for kind in ("images", "labels"):
            source = published / "mfnet" / kind / "00001D.png"
            source.with_name(f"{name}.png").write_bytes(source.read_bytes())
    text = "".join(f"{line}\r\n" for line in [*names, "images/cam.01.png x", "00002N.PNG"])
    (published / "mfnet/train.txt").write_text(text, encoding="utf-8-sig")
    assert mfnet(published).train.groups == (*names, "cam.01", "00002N")


def test_a_picture_beyond_pillows_limit_is_named(published, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 3)
    message = r"cannot read .*labels/00001D\.png: Image size .*raise PIL\.Image\.MAX_IMAGE_PIXELS"
    with pytest.raises(DataError, match=message):
        mfnet(published).train[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH * 2 // 3)
    with pytest.raises(DataError, match=message):  # Pillow's warning, which is an error here
        mfnet(published).train[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    mfnet(published).train[0]


def test_the_folder_may_have_another_name(published):
    (published / "mfnet").rename(published / "MFNet")
    assert len(mfnet(published, folder="MFNet").train) == 3
    with pytest.raises(DataError, match=r"mfnet/train\.txt, but there is none"):
        mfnet(published)


@pytest.mark.parametrize("file", ["images/00004N.png", "labels/00003D.png", "val.txt"])
def test_a_missing_file_is_named(published, file):
    (published / "mfnet" / file).unlink()
    with pytest.raises(DataError, match=rf"expected the file .*mfnet/{file}, but there is none.*https://www\.mi\.t\."):
        mfnet(published)


def test_a_missing_thermal_picture_is_named(folders):
    root, ending = folders
    thermal = next(path for path in (root / "mfnet").iterdir() if path.name.startswith("ther"))
    (thermal / f"00005D{ending}").unlink()
    with pytest.raises(DataError, match=rf"{thermal.name}/00005D{ending}, but there is none"):
        mfnet(root)


def test_a_sample_may_lack_its_colour_or_its_thermal_picture(folders):
    root, ending = folders
    thermal = next(path for path in (root / "mfnet").iterdir() if path.name.startswith("ther"))
    (thermal / f"00005D{ending}").unlink()
    (root / f"mfnet/rgb/00001D{ending}").unlink()
    data = mfnet(root, missing="present", augment={"photometric": 1.0, "blur": 1.0})
    assert data.notes == ("train: 1 of 3 samples lack rgb.", "test: 1 of 2 samples lack thermal.")
    assert list(data.train[0][0]) == ["thermal"]
    assert list(data.test[1][0]) == ["rgb"]
    check_dataset(data.train, data.modalities)
    (thermal / f"00001D{ending}").unlink()
    with pytest.raises(DataError, match=r"or another modality of the same sample, but there is none"):
        mfnet(root, missing="present")


def test_a_folder_of_another_form_is_refused(published):
    (published / "mfnet" / "images").rename(published / "mfnet" / "pictures")
    with pytest.raises(DataError, match=r"expected images/, or rgb/ and one of ther/, thermal/, but found neither"):
        mfnet(published)


def test_three_channels_are_not_enough(published):
    write_picture(published / "mfnet/images/00001D.png", pixels(np.random.default_rng(0), 3))
    with pytest.raises(DataError, match=r"00001D\.png: expected channels red, green, blue and thermal, but found 3"):
        mfnet(published).train[0]


def test_a_picture_of_another_size_than_its_label_is_refused(published):
    write_picture(published / "mfnet/images/00001D.png", pixels(np.random.default_rng(0), 4, width=9))
    with pytest.raises(DataError, match=r"00001D: expected rgb as large as the label, but found \(6, 9\) and \(6, 8\)"):
        mfnet(published).train[0]


def test_a_label_beyond_the_classes_is_refused(published):
    write_picture(published / "mfnet/labels/00001D.png", np.full((HEIGHT, WIDTH), 9, dtype=np.uint8))
    with pytest.raises(DataError, match=r"00001D\.png: expected labels 0 to 8, or 255, but found 9"):
        mfnet(published).train[0]


def test_a_damaged_picture_is_named(published):
    path = published / "mfnet/images/00001D.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cannot read .*images/00001D\.png"):
        mfnet(published).train[0]


def test_a_sample_in_train_and_test_is_refused(published):
    write_lists(published / "mfnet", {"test": ["00002N"]})
    with pytest.raises(DataError, match=r"no sample in both train and test, but found \['00002N'\]"):
        mfnet(published)


def test_an_empty_list_is_refused(published):
    write_lists(published / "mfnet", {"val": []})
    with pytest.raises(DataError, match=r"val\.txt: expected the names of samples"):
        mfnet(published)


def test_training_samples_alone_are_augmented(published):
    plain, data = mfnet(published), mfnet(published, augment={"flip": 1.0})
    inputs, label = data.train[0]
    assert torch.equal(inputs["rgb"], plain.train[0][0]["rgb"].flip(-1))
    assert torch.equal(label, plain.train[0][1].flip(-1))
    for part, other in ((data.val, plain.val), (data.test, plain.test)):
        assert torch.equal(part[0][0]["rgb"], other[0][0]["rgb"])
    with pytest.raises(DataError, match=r"augment: unknown option 'flips'.*Did you mean 'flip'"):
        mfnet(published, augment={"flips": 1.0})


RECIPE = """
output: run
network: {name: street_network:Network}
data:
  name: mfnet
  root: .
  options:
    augment: {scale: [0.5, 2.0], crop: [6, 8], flip: 0.5, photometric: 0.2, blur: 0.2}
adapt: {method: ssf, sharing: additive}
pretrain: {epochs: 2, lr: 1e-2, batch_size: 2, loss: {cross_entropy: {ignore_index: 255}}}
train: {epochs: 2, lr: 1e-2, batch_size: 2, loss: {cross_entropy: {ignore_index: 255}}}
evaluate: {metric: miou-labelled}
"""

NETWORK = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb, self.thermal = (nn.Conv2d(3, 9, 3, padding=1) for _ in range(2))

    def forward(self, rgb, thermal):
        return self.rgb(rgb) + self.thermal(thermal)
"""


def succeed(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_recipe_trains_on_augmented_samples_and_says_how_it_counts(published, monkeypatch):
    monkeypatch.chdir(published)
    monkeypatch.syspath_prepend(published)
    (published / "street_network.py").write_text(NETWORK)
    (published / "own.yaml").write_text(RECIPE)
    for workers in (0, 2):
        succeed("train", "own.yaml", "--set", f"data.workers={workers}", "--output", f"with-{workers}")
    one, other = (next((published / f"with-{workers}" / "adapters").glob("*.safetensors")) for workers in (0, 2))
    assert one.read_bytes() == other.read_bytes()
    told = succeed("evaluate", "own.yaml", "--output", "with-2")
    assert "counting  one confusion matrix for all data, pixels of class 0 among them" in told
    assert "labels of 255 don't count" in told
