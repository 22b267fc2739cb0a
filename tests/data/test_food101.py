"""UPMC Food-101 and the emoji in its layout: pictures, titles, and what stands in for either."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from subsense.data import load
from subsense.data.emoji import emoji
from subsense.data.food101 import DESCRIPTION, PARTS, food101
from subsense.errors import DataError
from subsense.testing import check_dataset

pytest.importorskip("tokenizers")

TITLES = {
    "train": [
        ("apple_pie_0.jpg", 'Apple pie, the "best" one', "apple_pie"),
        ("sushi_3.jpg", "Sushi | the best", "sushi"),
    ],
    "test": [("waffles_1.jpg", "Überraschung waffles", "waffles")],
}
SMALL: dict[str, Any] = {"size": (24, 32), "patch": 8, "length": 12}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write three pictures, 48 pixels high and 32 wide, left half white and right half black."""
    folder = tmp_path / "food101"
    (folder / "texts").mkdir(parents=True)
    for part, rows in TITLES.items():
        lines = []
        for file, text, label in rows:
            quoted = text.replace('"', '""')
            lines.append(f'{file},"{quoted}",{label}')
            place = folder / "images" / part / label
            place.mkdir(parents=True)
            pixels = np.zeros((48, 32, 3), np.uint8)
            pixels[:, :16] = 255
            Image.fromarray(pixels).save(place / file, format="PNG")
        (folder / "texts" / f"{part}_titles.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path


def test_lines_of_the_tables_are_the_samples(root: Path) -> None:
    data = food101(root, **SMALL)
    assert data.train.groups == ("apple_pie_0", "sushi_3")
    names = [data.class_names[int(target)] for part in (data.train, data.test) for _, target in part]
    assert names == ["apple_pie", "sushi", "waffles"]
    assert len(DESCRIPTION.class_names) == len(set(DESCRIPTION.class_names)) == 101


def test_samples_fit_what_is_declared(root: Path) -> None:
    data = food101(root, **SMALL)
    assert data.modalities["image"] == {"pixel_values": "3 24 32", "pixel_mask": "24 32:int64"}
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)
    assert len(pickle.loads(pickle.dumps(data.train))) == 2, "loaders with workers send it"


def test_a_picture_is_scaled_into_the_size_and_padded(root: Path) -> None:
    image = food101(root, **SMALL).train[0][0]["image"]
    assert image["pixel_mask"].sum() == 24 * 16
    assert bool(image["pixel_mask"][:24, :16].all())
    assert not image["pixel_values"][:, :, 16:].any()
    torch.testing.assert_close(image["pixel_values"][:, :, 2], torch.ones(3, 24), atol=0.05, rtol=0)
    torch.testing.assert_close(image["pixel_values"][:, :, 13], -torch.ones(3, 24), atol=0.05, rtol=0)


def test_sides_are_multiples_of_a_patch_and_never_none(root: Path) -> None:
    path = root / "food101" / "images" / "train" / "apple_pie" / "apple_pie_0.jpg"
    Image.new("L", (300, 20)).save(path, format="PNG")
    assert food101(root, **SMALL).train[0][0]["image"]["pixel_mask"].sum() == 8 * 32


def test_pixels_are_those_of_vilts_own_processor(root: Path) -> None:
    processors = pytest.importorskip("transformers.models.vilt.image_processing_pil_vilt")
    path = root / "food101" / "images" / "train" / "apple_pie" / "apple_pie_0.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="PNG")
    processor = processors.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    theirs = processor(Image.open(path), return_tensors="pt")["pixel_values"][0]
    ours = food101(root, size=(32, 32), patch=8).train[0][0]["image"]["pixel_values"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_vocabulary_never_sees_test_titles(root: Path) -> None:
    before = [food101(root, **SMALL).train[index][0]["text"]["input_ids"].tolist() for index in range(2)]
    path = root / "food101" / "texts" / "test_titles.csv"
    path.write_text("waffles_1.jpg,zzz zzz zzz the the the apple apple,waffles\n", "utf-8")
    assert [food101(root, **SMALL).train[index][0]["text"]["input_ids"].tolist() for index in range(2)] == before


def test_a_checkpoints_vocabulary_is_read(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsushi\nthe\nbest\n")
    text = food101(root, tokenizer=tmp_path, **SMALL).train[1][0]["text"]
    assert text["input_ids"].tolist() == [2, 5, 1, 6, 7, 3] + [0] * 6
    assert text["attention_mask"].tolist() == [1] * 6 + [0] * 6


def test_stand_ins_have_names(root: Path) -> None:
    fills = food101(root, **SMALL).fills
    assert fills["image"] == {
        "zero-pixels": {"pixel_values": 0.0, "pixel_mask": 1},
        "one-pixels": {"pixel_values": 1.0, "pixel_mask": 1},
    }
    empty = fills["text"]["empty-string"]
    assert empty["input_ids"].tolist() == [2, 3] + [0] * 10
    assert empty["attention_mask"].tolist() == [1, 1] + [0] * 10


@pytest.mark.parametrize("file", ["texts/test_titles.csv", "images/train/sushi/sushi_3.jpg"])
def test_an_absent_file_is_named(root: Path, file: str) -> None:
    (root / "food101" / file).unlink()
    with pytest.raises(DataError, match=rf"expected the file .*food101/{file}.* but there is none.*https://visiir"):
        food101(root)


def test_a_damaged_picture_is_named(root: Path) -> None:
    (root / "food101" / "images" / "train" / "sushi" / "sushi_3.jpg").write_bytes(b"an error page")
    with pytest.raises(DataError, match=r"cannot read .*sushi_3\.jpg"):
        food101(root, **SMALL).train[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,title", r"train_titles\.csv, line 1: expected file, text, class, but found 2 values"),
        ("a.jpg,title,aple_pie", r"unknown class 'aple_pie'\. Did you mean 'apple_pie'\?"),
        ("../../a.jpg,title,sushi", r"expected a file's name, but found '\.\./\.\./a\.jpg'"),
        ("", "it is empty"),
    ],
)
def test_a_wrong_line_is_named(root: Path, line: str, message: str) -> None:
    (root / "food101" / "texts" / "train_titles.csv").write_text(line)
    with pytest.raises(DataError, match=message):
        food101(root)


@pytest.mark.parametrize("size", [(24,), (24, 20), (0, 0)])
def test_impossible_size_is_refused(root: Path, size: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"expected size=\(height, width\), multiples of patch=8"):
        load("food101", root, size=size, patch=8)


def test_counts_of_the_real_emoji(shared: Path) -> None:
    data = emoji(shared / "data")
    assert (len(data.train), len(data.test), data.num_classes) == (1430, 476, 9)
    assert not set(data.train.groups) & set(data.test.groups)
    for part in (data.train, data.test):
        check_dataset(part, data.modalities)
    targets = torch.stack([target for _, target in data.test])
    assert set(targets.tolist()) == set(range(9))
    ids = torch.stack([inputs["text"]["input_ids"] for inputs, _ in data.train])
    assert int(ids.max()) < 1024
    assert bool((ids[:, -1] == 0).float().mean() > 0.9), "few names are cut"


def test_what_is_said_of_the_emoji_is_so(shared: Path) -> None:
    folder = shared / "data" / "emoji_food101_layout"
    pictures = {part: [path.read_bytes() for path in (folder / "images" / part).glob("*/*.jpg")] for part in PARTS}
    assert sum(picture in set(pictures["train"]) for picture in pictures["test"]) == 5
    rows = [line.split(",") for line in (folder / "texts" / "test_titles.csv").read_text("utf-8").splitlines()]
    flags = [row[1].split() for row in rows if row[-1] == "flags"]
    assert (len(flags), sum("flag" in words for words in flags)) == (57, 56)
    assert round(100 * sum(row[-1] == "people_body" for row in rows) / len(rows), 1) == 21.4


def test_a_sample_may_lack_its_picture_or_its_text(root: Path) -> None:
    images = root / "food101/images"
    (images / "train/sushi/sushi_3.jpg").unlink()
    (images / "test/waffles/waffles_2.jpg").write_bytes((images / "test/waffles/waffles_1.jpg").read_bytes())
    data = food101(root, missing="present", **SMALL)
    assert data.notes == ("train: 1 of 2 samples lack image.", "test: 1 of 2 samples lack text.")
    assert [sorted(inputs) for part in (data.train, data.test) for inputs, _ in part] == [
        ["image", "text"], ["text"], ["image", "text"], ["image"],
    ]  # fmt: skip
    assert [int(target) for _, target in data.test] == [DESCRIPTION.class_names.index("waffles")] * 2
    check_dataset(data.train, data.modalities)
    (root / "food101/texts/train_titles.csv").write_text("sushi_3.jpg,,sushi\n", "utf-8")
    with pytest.raises(DataError, match=r"sushi_3\.jpg or a text in its line, but there is neither"):
        food101(root, missing="present", **SMALL)
