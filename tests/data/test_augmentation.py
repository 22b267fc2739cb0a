"""Augmentation: geometry is the same for every modality and the label; colours alone change otherwise."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from subsense.data.base import Description
from subsense.data.formats.augmentation import Augmentation, blur, change_colours, resize, resize_label
from subsense.data.formats.images import ImageSamples, normalise
from subsense.errors import DataError
from subsense.testing import check_dataset

HEIGHT, WIDTH = 24, 40
DESCRIPTION = Description(
    name="places", modalities={"rgb": "3 H W", "thermal": "3 H W"}, task="segmentation", metric="miou",
    class_names=tuple(map(str, range(200))), source="", licence="", citation="",
)  # fmt: skip
EVERYTHING = Augmentation(scale=(0.5, 2.0), crop=(16, 24), flip=0.5, photometric=0.5, blur=0.5)


def places():
    """Make pictures that say where each pixel was: rows in `thermal`, columns in `depth`, both in the label."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    inputs = {
        "rgb": torch.stack([rows / HEIGHT, columns / WIDTH, torch.zeros(HEIGHT, WIDTH)]),
        "thermal": rows.float().expand(3, -1, -1),
        "depth": columns.float().expand(3, -1, -1),
    }
    return inputs, rows * WIDTH + columns


def make_sample(index):
    draw = torch.Generator().manual_seed(index)
    colour, thermal = torch.rand(2, 3, HEIGHT, WIDTH, generator=draw)
    return {"rgb": colour, "thermal": thermal}, torch.randint(0, 200, (HEIGHT, WIDTH), generator=draw)


def samples(augmentation=EVERYTHING):
    return ImageSamples(DESCRIPTION, make_sample, [str(number) for number in range(6)], augmentation)


@pytest.mark.parametrize("index", range(12))
def test_every_modality_and_the_label_show_the_same_place(index):
    augmentation = Augmentation(scale=(0.5, 2.0), crop=(30, 50), flip=0.5, ignore_index=-1)
    images, label = augmentation.apply(*places(), 0, index)
    real = label != -1
    assert real.any()
    row, column = label // WIDTH, label % WIDTH
    inner = real & (row > 3) & (row < HEIGHT - 4) & (column > 3) & (column < WIDTH - 4)
    for name, place in (("thermal", row), ("depth", column)):
        assert (images[name][0] - place)[inner].abs().max() <= 1.01  # nearest and averaged differ by less than a pixel
        assert abs((images[name][0] - place)[inner].mean()) < 0.3  # and to both sides alike: nothing is shifted
        assert (images[name][:, ~real] == 0).all()
    torch.testing.assert_close(images["rgb"][0] * HEIGHT, images["thermal"][0], atol=1e-3, rtol=0)
    torch.testing.assert_close(images["rgb"][1] * WIDTH, images["depth"][0], atol=1e-3, rtol=0)


def test_without_scaling_the_window_is_cut_out_to_the_pixel():
    images, label = Augmentation(crop=(10, 12)).apply(*places(), 0, 3)
    assert torch.equal(images["thermal"][0], (label // WIDTH).float())
    assert torch.equal(images["depth"][0], (label % WIDTH).float())
    assert len({int(Augmentation(crop=(10, 12)).apply(*places(), 0, index)[1][0, 0]) for index in range(20)}) > 10


def test_a_mirror_image_is_one_of_everything():
    images, label = Augmentation(flip=1.0).apply(*places(), 0, 0)
    assert label[0].tolist() == list(range(WIDTH - 1, -1, -1))
    assert torch.equal(images["depth"][0], (label % WIDTH).float())


def test_the_scale_covers_its_range():
    augmentation = Augmentation(scale=(0.5, 2.0), crop=(2 * HEIGHT, 2 * WIDTH))
    heights = [
        int((augmentation.apply(*places(), 0, index)[1] != 255).any(1).sum()) / HEIGHT for index in range(60)
    ]  # labels of 255 in the picture itself are few
    assert 0.5 <= min(heights) < 0.65
    assert 1.85 < max(heights) <= 2.0


def test_padding_is_ignored_label_and_zeros():
    images, label = Augmentation(crop=(HEIGHT + 2, WIDTH + 3)).apply(*make_sample(0), 0, 0)
    assert (label[HEIGHT:] == 255).all()
    assert (label[:, WIDTH:] == 255).all()
    assert (images["thermal"][:, HEIGHT:] == 0).all()
    assert torch.equal(label[:HEIGHT, :WIDTH], make_sample(0)[1])


@pytest.mark.parametrize("options", [{"photometric": 1.0}, {"blur": 1.0}])
def test_only_colours_change_their_values(options):
    inputs, label = make_sample(0)
    images, same = Augmentation(**options).apply(inputs, label, 0, 0)
    assert torch.equal(images["thermal"], inputs["thermal"])
    assert torch.equal(same, label)
    assert not torch.allclose(images["rgb"], inputs["rgb"], atol=0.01)
    assert images["rgb"].min() >= 0
    assert images["rgb"].max() <= 1


def test_how_often_follows_the_probability():
    inputs, label = places()
    flipped = sum(int(Augmentation(flip=0.25).apply(inputs, label, 0, index)[1][0, 0]) > 0 for index in range(400))
    assert 70 <= flipped <= 130


def test_brightness_contrast_and_saturation_by_hand():
    image = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1).repeat(1, 1, 2)
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    torch.testing.assert_close(change_colours(image, 1.5, 1, 1), image * 1.5)
    torch.testing.assert_close(change_colours(image, 1, 0.5, 1), (image + grey) / 2)
    torch.testing.assert_close(change_colours(image, 1, 1, 0), torch.full_like(image, grey))
    assert change_colours(image, 2, 1, 1).max() == 1


def test_a_blur_keeps_what_is_flat_and_lowers_a_peak():
    torch.testing.assert_close(blur(torch.full((3, 5, 5), 0.3)), torch.full((3, 5, 5), 0.3))
    peak = torch.zeros(1, 5, 5)
    peak[0, 2, 2] = 1
    assert float(blur(peak).sum()) == pytest.approx(1)
    assert float(blur(peak)[0, 2, 2]) == pytest.approx((1 / (1 + 2 * np.exp(-0.78125))) ** 2)


def test_labels_are_never_mixed():
    label = torch.tensor([[0, 255], [7, 3]])
    assert set(resize_label(label, (5, 7)).flatten().tolist()) == {0, 3, 7, 255}
    assert resize(torch.rand(3, 4, 4), (4, 4)).shape == (3, 4, 4)


def test_the_same_seed_epoch_and_sample_give_the_same():
    def draw(seed, epoch, index):
        return Augmentation(crop=(8, 8), seed=seed).apply(*places(), epoch, index)[1]

    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(draw(0, 1, 2), draw(*other))


def test_an_epoch_is_drawn_once_and_the_next_one_anew():
    part = samples()
    check_dataset(part, DESCRIPTION.modalities)
    first = part[2][1]
    part.set_epoch(1)
    assert not torch.equal(part[2][1], first)
    part.set_epoch(0)
    assert torch.equal(part[2][1], first)


@pytest.mark.parametrize(
    ("start", "persistent"),
    [("fork", False), ("fork", True), pytest.param("spawn", True, marks=pytest.mark.slow)],
)
def test_workers_draw_what_one_process_draws(start, persistent):
    part = samples()
    loader = DataLoader(part, 3, num_workers=2, persistent_workers=persistent, multiprocessing_context=start)
    for epoch in (0, 1):
        part.set_epoch(epoch)
        alone = torch.stack([part[index][0]["rgb"] for index in range(6)])
        assert torch.equal(torch.cat([inputs["rgb"] for inputs, _ in loader]), alone)


def test_colours_are_normalised_after_the_augmentation():
    inputs, label = samples(Augmentation(crop=(HEIGHT + 1, WIDTH)))[0]
    torch.testing.assert_close(inputs["rgb"][:, :HEIGHT], normalise(make_sample(0)[0]["rgb"]))
    assert torch.equal(inputs["rgb"][:, HEIGHT:], normalise(torch.zeros(3, 1, WIDTH)))
    assert label.shape == (HEIGHT + 1, WIDTH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": [0.5, 2]}, "scale: needs crop"),
        ({"scale": [2, 0.5], "crop": [4, 4]}, "scale: expected the least factor and the greatest"),
        ({"scale": [0, 1], "crop": [4, 4]}, "above 0"),
        ({"crop": [4]}, "crop: expected height and width"),
        ({"crop": [0, 4]}, "both at least 1"),
        ({"flip": 1.5, "blur": -1}, r"flip: expected 0 to 1, but found 1\.5; blur: expected 0 to 1"),
        ({"photo": 1}, "unknown option 'photo'.*Did you mean 'photometric'"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(DataError, match=message):
        Augmentation.parse(options)
