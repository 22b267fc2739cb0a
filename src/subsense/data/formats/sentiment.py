"""What the files of CMU-MOSI and CMU-MOSEI hold, as MulT and MMSA release them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description, Samples, locate
from subsense.data.formats.restricted_pickle import read_pickle
from subsense.errors import DataError, closest

MODALITIES = ("text", "audio", "vision")
SPLITS = ("train", "valid", "test")
LABELS = {"mult": "labels", "mmsa": "regression_labels"}
"""Release -> what its files call the sentiment."""
MAX_SENTIMENT = 3.0
NOT_FINITE = ("zero", "refuse")

Files = Mapping[tuple[str, bool], str]
"""Release, and whether the sequences are aligned to the words -> file."""


def load_sentiment(
    description: Description, root: str | Path | None, files: Files, release: str, aligned: bool, not_finite: str
) -> Data:
    """Load one file of a release; see `subsense.data.mosi.mosi`.

    Raises:
        DataError: the file is absent or damaged, or holds something else.
    """
    if release not in LABELS:
        known = ", ".join(LABELS)
        raise description.error(
            f"expected release to be one of {known}, but found {release!r}.{closest(release, LABELS)}"
        )
    if not_finite not in NOT_FINITE:
        known = " or ".join(map(repr, NOT_FINITE))
        raise description.error(
            f"expected not_finite to be {known}, but found {not_finite!r}.{closest(str(not_finite), NOT_FINITE)}"
        )
    path = _find(description, root, files, release, aligned)
    splits = _Splits(description, path, LABELS[release], not_finite)
    parts = {split: splits.take(split) for split in SPLITS}
    shapes = {split: _axes(samples) for split, samples in parts.items()}
    if any(shape != shapes["train"] for shape in shapes.values()):
        raise description.error(f"{path}: expected sequences of the same shape in all splits, but found {shapes}.")
    return description.with_samples(
        parts["train"], parts["test"], parts["valid"], modalities=shapes["train"], notes=tuple(splits.notes)
    )


def _find(description: Description, root: str | Path | None, files: Files, release: str, aligned: bool) -> Path:
    file = files[release, aligned]
    folder = Path(root or "") / description.folder
    others = [
        f"{other}, which release={kind!r} with aligned={str(words).lower()} reads"
        for (kind, words), other in files.items()
        if (folder / other).is_file()
    ]
    if root is not None and others and not (folder / file).is_file():
        raise description.error(
            f"expected the file {folder / file}, but there is none; there is {' and '.join(others)}."
        )
    return locate(description, root, [file]) / file


def _axes(samples: Samples) -> dict[str, str]:
    return {name: " ".join(map(str, samples.inputs[name].shape[1:])) for name in MODALITIES}


class _Splits:
    """Check and take what a file holds, split by split, so that what was taken needs no memory twice."""

    def __init__(self, description: Description, path: Path, labels: str, not_finite: str) -> None:
        self.description, self.path, self.labels, self.not_finite = description, path, labels, not_finite
        self.notes: list[str] = []
        try:
            self.content = read_pickle(path)
        except DataError as error:
            raise description.error(str(error)) from None
        self._check("", self.content, SPLITS)

    def take(self, split: str) -> Samples:
        """Make the samples of a split."""
        content = self.content.pop(split)
        self._check(f"[{split!r}]", content, (*MODALITIES, self.labels, "id"))
        targets = self._targets(split, content[self.labels])
        videos = [_video(one) for one in content["id"]]
        inputs = {name: self._features(split, name, content.pop(name), len(targets)) for name in MODALITIES}
        if len(videos) != len(targets):
            raise self._error(split, "id", f"{len(targets)} of them", len(videos))
        return Samples(inputs, targets, videos)

    def _check(self, place: str, content: Any, keys: tuple[str, ...]) -> None:
        found = list(content) if isinstance(content, dict) else type(content).__name__
        if not isinstance(content, dict) or any(key not in content for key in keys):
            raise self.description.error(
                f"{self.path}{place}: expected a dict with {', '.join(keys)}, but found {str(found)[:200]}."
            )

    def _features(self, split: str, name: str, values: Any, count: int) -> Tensor:
        if not isinstance(values, np.ndarray) or values.ndim != 3 or values.dtype.kind not in "iuf":
            raise self._error(split, name, "an array (utterance, time, feature) of numbers", _kind(values))
        if len(values) != count:
            raise self._error(split, name, f"{count} utterances", len(values))
        with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and is found below
            features = np.array(values, np.float32)
        if (wrong := ~np.isfinite(features)).any():
            place = tuple(int(one[0]) for one in np.nonzero(wrong))
            row, time, feature = place
            found = f"{wrong.sum()} others, the first {values[place]} at row {row}, time {time}, feature {feature}"
            if name == "text" or self.not_finite == "refuse":
                advice = "" if name == "text" else "; not_finite='zero' puts 0 in their place"
                raise self._error(split, name, "finite numbers within float32", found + advice)
            features[wrong] = 0
            self.notes.append(f"{split}, {name}: 0 stands for what is no finite number within float32: {found}.")
        return torch.from_numpy(features)

    def _targets(self, split: str, values: Any) -> Tensor:
        numbers = np.asarray(values) if isinstance(values, list | np.ndarray) else np.empty(0, object)
        if numbers.dtype.kind not in "iuf" or numbers.size != len(numbers):
            raise self._error(split, self.labels, "a number for each utterance", _kind(values))
        targets = torch.from_numpy(numbers.astype(np.float32).reshape(-1, 1))
        if not bool((targets.abs() <= MAX_SENTIMENT).all()):
            raise self._error(split, self.labels, "sentiment from -3 to 3", f"{targets.min()} to {targets.max()}")
        return targets

    def _error(self, split: str, name: str, expected: str, found: object) -> DataError:
        return self.description.error(f"{self.path}[{split!r}][{name!r}]: expected {expected}, but found {found}.")


def _video(identity: Any) -> str:
    """Name the video of an utterance, whose id is `video$_$number`, or a row of video, begin and end."""
    video = identity if isinstance(identity, str | bytes) else identity[0]
    text = video.decode("utf-8", "replace") if isinstance(video, bytes) else str(video)
    return text.split("$_$")[0]


def _kind(values: Any) -> str:
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
