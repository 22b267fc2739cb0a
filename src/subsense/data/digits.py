"""Handwritten digits seen by four cameras, each of which sees one quadrant.

Optical Recognition of Handwritten Digits, the 1,797 images that come with scikit-learn: 8 x 8 pixels, 10 classes.
The cut into four cameras is ours: it makes a real recognition task out of which any of four inputs can be missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description, Samples

QUADRANTS = {
    "nw": (slice(0, 4), slice(0, 4)),
    "ne": (slice(0, 4), slice(4, 8)),
    "sw": (slice(4, 8), slice(0, 4)),
    "se": (slice(4, 8), slice(4, 8)),
}
DESCRIPTION = Description(
    name="digits",
    modalities=dict.fromkeys(QUADRANTS, "1 4 4"),
    task="classification",
    class_names=tuple("0123456789"),
    metric="accuracy",
    source="scikit-learn's load_digits; UCI Machine Learning Repository, doi 10.24432/C50P49",
    licence="CC BY 4.0",
    citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
)


def digits(root: str | Path | None = None, *, seed: int = 0) -> Data:
    """Load the digits, three quarters to train (1,347) and one to test (450).

    The split is random, stratified by class and drawn from `seed`. Who wrote which digit is not known: one writer may
    be in both parts. Pixels are divided by 16 to lie in [0, 1]; no statistics are taken.

    Args:
        root: not used, the images come with scikit-learn.
        seed: draws the split.

    >>> data = digits()
    >>> len(data.train), len(data.test), data.train[0][0]["nw"].shape
    (1347, 450, torch.Size([1, 4, 4]))
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    train, test = train_test_split(
        np.arange(len(bunch.target)), test_size=0.25, random_state=seed, stratify=bunch.target
    )
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
    targets = torch.from_numpy(bunch.target).long()
    return DESCRIPTION.with_samples(_samples(images, targets, train), _samples(images, targets, test))


def _samples(images: Tensor, targets: Tensor, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Samples:
    inputs = {name: images[rows][:, :, high, wide].contiguous() for name, (high, wide) in QUADRANTS.items()}
    return Samples(inputs, targets[rows], groups=[str(row) for row in rows])
