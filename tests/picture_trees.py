"""Small data sets of pictures in the layouts in which the real ones are published, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 8


def pixels(draw: np.random.Generator, channels: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Draw 8-bit pixels (height, width) or (height, width, channels)."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return draw.integers(0, 256, shape, dtype=np.uint8)


def write_picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def write_lists(folder: Path, lists: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in lists.items():
        (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))
