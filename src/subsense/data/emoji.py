"""Emoji: 1,906 small pictures with their names, in nine categories, in the layout of UPMC Food-101.

A set to try an image and text pipeline on two cores. Some names give the class away: of 57 flags to test, 56 are
called "... flag". The largest class has 21.4 % of the test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subsense.data.base import Data, Description
from subsense.data.food101 import image_text_modalities, load_image_text

SIZE = (64, 64)
LENGTH = 16
DESCRIPTION = Description(
    name="emoji",
    modalities=image_text_modalities(SIZE, LENGTH),
    task="classification",
    class_names=(
        "activities",
        "animals_nature",
        "flags",
        "food_drink",
        "objects",
        "people_body",
        "smileys_emotion",
        "symbols",
        "travel_places",
    ),
    metric="accuracy",
    source="https://github.com/googlefonts/noto-emoji",
    licence="Apache-2.0",
    citation="Google, Noto Emoji",
    folder="emoji_food101_layout",
)


def emoji(
    root: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    size: Sequence[int] = SIZE,
    patch: int = 16,
    length: int = LENGTH,
    vocabulary_size: int = 1024,
    missing: str = "refuse",
) -> Data:
    """Load the emoji of `root/emoji_food101_layout/`: 1,430 to train, 476 to test, all kept in memory.

    Layout::

        emoji_food101_layout/
          images/train/flags/flags_40.jpg ...   64 x 64 pixels, one folder for each class
          images/test/flags/flags_38.jpg ...
          texts/train_titles.csv                a line each: file, name, class; no header
          texts/test_titles.csv

    Modalities, fills and options are those of `food101`. No name is in both parts, but five of the test pictures are
    training pictures as well, under other names.

    Raises:
        DataError: as `food101` does.
    """
    return load_image_text(
        DESCRIPTION, root, tokenizer, size, patch, length, vocabulary_size, in_memory=True, missing=missing
    )
