"""UPMC Food-101: 101 dishes, each by a picture from a web page and the page's title.

Pictures and titles were found by searching the web for the dish, and are noisy; many titles name the dish.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from subsense.data.base import Data, Description, FileSamples, Item, check_missing, locate
from subsense.data.formats.images import ENDINGS, open_picture
from subsense.data.formats.texts import ARGUMENTS, Texts, build_vocabulary, read_texts
from subsense.errors import closest

PARTS = ("train", "test")
SIZE = (384, 384)
LENGTH = 40
CLASSES = """
apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap bread_pudding
breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche cheese_plate cheesecake
chicken_curry chicken_quesadilla chicken_wings chocolate_cake chocolate_mousse churros clam_chowder club_sandwich
crab_cakes creme_brulee croque_madame cup_cakes deviled_eggs donuts dumplings edamame eggs_benedict escargots falafel
filet_mignon fish_and_chips foie_gras french_fries french_onion_soup french_toast fried_calamari fried_rice
frozen_yogurt garlic_bread gnocchi greek_salad grilled_cheese_sandwich grilled_salmon guacamole gyoza hamburger
hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque lobster_roll_sandwich
macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings oysters pad_thai paella pancakes
panna_cotta peking_duck pho pizza pork_chop poutine prime_rib pulled_pork_sandwich ramen ravioli red_velvet_cake
risotto samosa sashimi scallops seaweed_salad shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls
steak strawberry_shortcake sushi tacos takoyaki tiramisu tuna_tartare waffles
"""


def image_text_modalities(size: Sequence[int], length: int) -> dict[str, dict[str, str]]:
    """Give the modalities of an image (H, W) and a text of so many tokens, by the arguments that carry them."""
    height, width = size
    return {
        "image": {"pixel_values": f"3 {height} {width}", "pixel_mask": f"{height} {width}:int64"},
        "text": dict.fromkeys(ARGUMENTS, f"{length}:int64"),
    }


DESCRIPTION = Description(
    name="food101",
    modalities=image_text_modalities(SIZE, LENGTH),
    task="classification",
    class_names=tuple(CLASSES.split()),
    metric="accuracy",
    source="https://visiir.isir.upmc.fr/explore (a mirror: https://www.kaggle.com/datasets/gianmarco96/upmcfood101)",
    licence="research use; pictures and titles are their authors'",
    citation="X. Wang, D. Kumar, N. Thome, M. Cord, F. Precioso, Recipe recognition with large multimodal food "
    "dataset, ICME Workshops 2015",
    folder="food101",
)


def food101(
    root: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    size: Sequence[int] = SIZE,
    patch: int = 32,
    length: int = LENGTH,
    vocabulary_size: int = 8192,
    missing: str = "refuse",
) -> Data:
    """Load the pictures and titles of `root/food101/`; some 68,000 to train and 22,700 to test are published.

    Layout::

        food101/
          images/train/apple_pie/apple_pie_0.jpg ...   one folder for each class
          images/test/apple_pie/apple_pie_12.jpg ...
          texts/train_titles.csv                       a line each: file, text, class; no header
          texts/test_titles.csv

    A sample is a line of the two tables; a picture without a title is left out. Files are read when they are needed.

    - `image`: the picture scaled to fit into `size`, sides a multiple of `patch`, its colours from -1 to 1
      (`pixel_values`), padded right and below with zeros, which `pixel_mask` tells apart
    - `text`: `input_ids`, `attention_mask`, `token_type_ids` of `length` word pieces

    Fills for what is missing, by name (published work differs, so choose): `image: zero-pixels`, `image: one-pixels`
    (an image that is all zeros, mid-grey, or all ones, white), `text: empty-string` (start and end alone). With
    `zeros` all arguments are zero, the masks too: no patch and no word piece is attended.

    Args:
        root: the folder that holds `food101/`.
        tokenizer: the folder of a checkpoint with its vocab.txt, needed with pretrained weights; None: a vocabulary
            made from the training titles alone.
        size: height and width in pixels, multiples of `patch`.
        patch: pixels of a patch's side in the network.
        length: number of tokens; ViLT has positions for 40.
        vocabulary_size: at most so many word pieces where they are made from the training titles.
        missing: ``"refuse"``, or ``"present"``: a line's picture may be absent, its text may be empty, and a picture
            that no line names is a sample without text.

    Raises:
        DataError: a file is absent or damaged, a line or class is not as described, tokenizers isn't installed.
    """
    return load_image_text(DESCRIPTION, root, tokenizer, size, patch, length, vocabulary_size, missing=missing)


@dataclass(frozen=True)
class Line:
    """Hold a line of a table: the picture's file, its text, and the index of its class."""

    file: Path
    text: str | None
    target: int
    has_picture: bool = True


def load_image_text(
    description: Description,
    root: str | Path | None,
    tokenizer: str | Path | None,
    size: Sequence[int],
    patch: int,
    length: int,
    vocabulary_size: int,
    in_memory: bool = False,
    missing: str = "refuse",
) -> Data:
    """Load a data set in the layout of UPMC Food-101; see `food101`."""
    if len(size) != 2 or patch < 1 or min(size) < patch or any(side % patch for side in size):
        raise description.error(f"expected size=(height, width), multiples of patch={patch}, but got {size!r}.")
    check_missing(description, missing)
    folder = locate(description, root, [f"texts/{part}_titles.csv" for part in PARTS])
    lines = {part: _lines(description, folder, part, missing) for part in PARTS}
    if tokenizer is None:
        texts = Texts(build_vocabulary((line.text or "" for line in lines["train"]), vocabulary_size), length)
    else:
        texts = read_texts(tokenizer, length)
    reads = {part: partial(_read, lines[part], texts, (size[0], size[1]), patch, description) for part in PARTS}
    if in_memory:
        reads = {part: _kept(reads[part], len(lines[part])) for part in PARTS}
    train, test = (FileSamples(reads[part], [line.file.stem for line in lines[part]]) for part in PARTS)
    notes = [note for part in PARTS for note in _lacking(part, lines[part])]
    axes = image_text_modalities(size, length)
    return description.with_samples(train, test, modalities=axes, fills=_fills(texts), notes=tuple(notes))


def _fills(texts: Texts) -> dict[str, dict[str, Any]]:
    return {
        "image": {
            "zero-pixels": {"pixel_values": 0.0, "pixel_mask": 1},
            "one-pixels": {"pixel_values": 1.0, "pixel_mask": 1},
        },
        "text": {"empty-string": texts("")},
    }


def _kept(read: Any, number: int) -> Any:
    return [read(index) for index in range(number)].__getitem__


# ---- the tables


def _lines(description: Description, folder: Path, part: str, missing: str) -> list[Line]:
    path = folder / "texts" / f"{part}_titles.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise description.error(f"cannot read {path}: {error}.") from error
    lines = [_line(description, folder, part, path, number, row) for number, row in enumerate(rows, 1)]
    if not lines:
        raise description.error(f"expected lines in {path}, but it is empty.")
    if missing == "present":
        return _incomplete(description, folder, part, lines)
    for line in lines:
        if not line.file.is_file():
            raise description.error(f"expected the file {line.file}, named in {path.name}, but there is none.")
    return lines


def _incomplete(description: Description, folder: Path, part: str, lines: list[Line]) -> list[Line]:
    """Say what each line lacks, and add the pictures that no line names."""
    found = [replace(line, text=line.text or None, has_picture=line.file.is_file()) for line in lines]
    for line in found:
        if line.text is None and not line.has_picture:
            raise description.error(f"expected the file {line.file} or a text in its line, but there is neither.")
    named = {line.file for line in lines}
    return found + [
        Line(file, None, target)
        for target, name in enumerate(description.class_names)
        for file in sorted((folder / "images" / part / name).glob("*"))
        if file.suffix.lower() in ENDINGS and file not in named
    ]


def _lacking(part: str, lines: list[Line]) -> list[str]:
    counts = {
        "image": sum(not line.has_picture for line in lines),
        "text": sum(line.text is None for line in lines),
    }
    return [f"{part}: {count} of {len(lines)} samples lack {name}." for name, count in counts.items() if count]


def _line(description: Description, folder: Path, part: str, path: Path, number: int, row: list[str]) -> Line:
    if len(row) != 3:
        raise description.error(f"{path}, line {number}: expected file, text, class, but found {len(row)} values.")
    file, text, label = row
    if label not in description.class_names:
        near = closest(label, description.class_names)
        raise description.error(f"{path}, line {number}: unknown class {label!r}.{near}")
    if Path(file).name != file:
        raise description.error(f"{path}, line {number}: expected a file's name, but found {file!r}.")
    return Line(folder / "images" / part / label / file, text, description.class_names.index(label))


# ---- a sample


def _read(
    lines: list[Line], texts: Texts, size: tuple[int, int], patch: int, description: Description, index: int
) -> Item:
    line = lines[index]
    inputs: dict[str, Any] = {}
    if line.has_picture:
        with open_picture(description, line.file) as image:
            inputs["image"] = padded(_pixels(image.convert("RGB"), size, patch), size)
    if line.text is not None:
        inputs["text"] = texts(line.text)
    return inputs, torch.tensor(line.target)


def _pixels(image: Image.Image, size: tuple[int, int], patch: int) -> Tensor:
    """Scale a picture to fit into `size`, sides multiples of `patch`: float (3, H, W), from -1 to 1 as ViLT has it."""
    scale = min(size[0] / image.height, size[1] / image.width)
    width, height = (max(patch, round(side * scale) // patch * patch) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(scaled)).movedim(-1, 0).float() / 127.5 - 1


def padded(pixels: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Put an image (3, h, w) into the corner of one (3, H, W); the mask is 1 where it is.

    >>> padded(torch.ones(3, 1, 2), (2, 2))["pixel_mask"]
    tensor([[1, 1],
            [0, 0]])
    """
    height, width = pixels.shape[1:]
    values, mask = torch.zeros(3, *size), torch.zeros(size, dtype=torch.int64)
    values[:, :height, :width], mask[:height, :width] = pixels, 1
    return {"pixel_values": values, "pixel_mask": mask}
