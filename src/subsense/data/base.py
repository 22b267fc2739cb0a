"""What a data set is here: what is known of it without its files, and its samples."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from subsense.errors import DataError, closest
from subsense.modalities import AxisSpec

Item = tuple[dict[str, Any], Tensor]
"""Modality -> tensor, or argument -> tensor where several carry it; and the target."""


class Part(Dataset[Item]):
    """Give a part's samples by index, `(inputs, target)` each, which torch's default collate turns into a batch.

    Attributes:
        groups: for each sample what must not be shared between training and test: the subject, video or scene. Known
            without reading any sample.
    """

    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.groups)

    @abstractmethod
    def __getitem__(self, index: int) -> Item: ...


class Samples(Part):
    """Hold samples in memory, one tensor per modality.

    Args:
        inputs: `{modality: (num_samples, ...)}`.
        targets: int64, `(num_samples,)` for classification, `(num_samples, H, W)` for segmentation; float32,
            `(num_samples, 1)`, for regression.
        groups: see `Part`.
        present: `{modality: bool (num_samples,)}`, which samples have it; what one lacks has no key in it. Modalities
            that aren't here are in all.

    >>> samples = Samples({"rgb": torch.zeros(2, 3)}, torch.tensor([0, 1]), groups=["a", "b"])
    >>> samples[1]
    ({'rgb': tensor([0., 0., 0.])}, tensor(1))
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        targets: Tensor,
        groups: Sequence[str],
        present: Mapping[str, Tensor] | None = None,
    ) -> None:
        lengths = {len(tensor) for tensor in (*inputs.values(), targets)} | {len(groups)}
        assert len(lengths) == 1, f"modalities, targets and groups differ in number: {sorted(lengths)}"
        self.inputs = dict(inputs)
        self.targets = targets
        self.groups = tuple(groups)
        self.present = dict(present or {})

    def __getitem__(self, index: int) -> Item:
        has = [name for name in self.inputs if name not in self.present or self.present[name][index]]
        return {name: self.inputs[name][index] for name in has}, self.targets[index]


class FileSamples(Part):
    """Read samples from their files, each when it is asked for.

    Args:
        read: index -> sample. A `DataLoader` with workers pickles it: make it a function of a module, a `partial` of
            one, or an object with `__call__`; open files inside it, not before.
        groups: see `Part`; as many as there are samples.

    >>> squares = FileSamples(lambda index: ({"x": torch.tensor(index**2)}, torch.tensor(0)), groups=["a", "b", "c"])
    >>> len(squares), squares[-1]
    (3, ({'x': tensor(4)}, tensor(0)))
    """

    def __init__(self, read: Callable[[int], Item], groups: Sequence[str]) -> None:
        self.read = read
        self.groups = tuple(groups)

    def __getitem__(self, index: int) -> Item:
        return self.read(range(len(self))[index])


@dataclass(frozen=True, kw_only=True)
class Description:
    """Say what is known of a data set without its files: its modalities, its task, and whom to cite.

    Attributes:
        name: the name it is loaded by.
        modalities: `{modality: axis string}`, in the order of columns in every table; as the loader's defaults give.
        task: what is predicted: a class per sample, a class per pixel, or a number.
        class_names: in the order of the class indices; none for a regression.
        metric: the name of the measure that the field reports.
        ignore_index: the label of pixels that don't count, where there are such.
        source, licence, citation: where it comes from, its terms, and the authors to cite beside every result.
        folder: what its folder under `root` is called; empty where it needs none.
        notes: what loading did that a reader of the results should know, a sentence each: files that were absent,
            values that were replaced.
        fills: modality -> name -> value of a `subsense.Constant`: stand-ins that a recipe's `fill` can name. They may
            depend on how the data were loaded.
    """

    name: str
    modalities: Mapping[str, AxisSpec]
    task: Literal["classification", "segmentation", "regression"]
    class_names: tuple[str, ...] = ()
    metric: str
    ignore_index: int | None = None
    source: str
    licence: str
    citation: str
    folder: str = ""
    fills: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.class_names)

    def with_samples(self, train: Part, test: Part, val: Part | None = None, **changes: Any) -> Data:
        """Make the data set of it; `changes` are attributes that this loading gives another value."""
        return Data(train=train, test=test, val=val, **(vars(self) | changes))

    def error(self, text: str) -> DataError:
        """Make the error that says what is wrong, where the data come from, and how their files are to lie."""
        help_ = f" `subsense ls data {self.name}` shows what its folder holds." if self.folder else ""
        return DataError(f"{self.name}: {text} The data come from {self.source}; nothing is downloaded.{help_}")


@dataclass(frozen=True, kw_only=True)
class Data(Description):
    """Hold a data set: its description, and its samples in the parts of a fixed split.

    Attributes:
        train, test: what networks and adapter sets are trained on, and what they are measured on.
        val: what settings are chosen on, where the split has such a part.
    """

    train: Part
    test: Part
    val: Part | None = None


def locate(description: Description, root: str | Path | None, files: Sequence[str], folder: str | None = None) -> Path:
    """Find a data set's folder under `root`, with every one of `files` in it.

    Args:
        description: of the data set; names the folder.
        root: the folder that holds the data sets' own folders.
        files: paths inside the data set's folder.
        folder: goes before the description's.

    Raises:
        DataError: no root, or a file absent; names the file expected and where the data come from.
    """
    inside = folder or description.folder
    if root is None:
        raise description.error(f"needs root=..., the folder that holds {inside}/{files[0]}.")
    for file in files:
        path = Path(root) / inside / file
        if not path.is_file():
            raise description.error(f"expected the file {path}, but there is none.")
    return Path(root) / inside


MISSING = ("refuse", "present")
"""What a loader does where single files are absent: raise at the first, or leave the modality out of that sample."""


def check_missing(description: Description, missing: str) -> None:
    """Refuse what is no choice of `MISSING`."""
    if missing not in MISSING:
        known = " or ".join(map(repr, MISSING))
        near = closest(str(missing), MISSING)
        raise description.error(f"expected missing to be {known}, but found {missing!r}.{near}")


def count_missing(
    description: Description,
    part: str,
    samples: Sequence[Mapping[str, Path]],
    missing: str,
    modalities: Mapping[str, str] | None = None,
) -> list[str]:
    """Look for every file of every sample, and say how many samples lack which modality.

    Args:
        description: of the data set.
        part: whose samples they are.
        samples: for each sample kind -> file; kind ``"label"`` is needed always.
        missing: one of `MISSING`.
        modalities: kind -> modality, where a modality has several files; else kinds are modalities.

    Raises:
        DataError: names the first file that is absent and has to be there.
    """
    check_missing(description, missing)
    lacking: Counter[str] = Counter()
    for files in samples:
        absent = {kind: path for kind, path in files.items() if not path.exists()}
        if absent and (missing == "refuse" or "label" in absent):
            raise description.error(
                f"expected the file {next(iter(absent.values()))}, but there is none."
                if missing == "refuse"
                else f"expected the file {absent['label']}, but there is none, and a label is needed."
            )
        lost = {(modalities or {}).get(kind, kind) for kind in absent}
        if lost and lost >= {(modalities or {}).get(kind, kind) for kind in files} - {"label"}:
            raise description.error(f"expected the file {next(iter(absent.values()))} or another modality of the same "
                                    "sample, but there is none.")  # fmt: skip
        lacking.update(lost)
    return [f"{part}: {count} of {len(samples)} samples lack {name}." for name, count in sorted(lacking.items())]


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text that hold anything; a byte-order mark at its beginning is dropped."""
    return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def standardise(
    train: Tensor, test: Tensor, axes: Sequence[int], present: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Shift and scale both parts to zero mean and unit deviation **of the training part**, pooled over `axes`.

    The test part has no say in the statistics. What never varies in training becomes 0 in training. Where `present`
    says which rows of both parts are there, the others have no say either, and become 0.

    >>> standardise(torch.tensor([[1.0], [3.0]]), torch.tensor([[4.0]]), axes=[0])
    (tensor([[-1.],
            [ 1.]]), tensor([[2.]]))
    """
    if present is not None:
        there, others = present
        if not there.any():
            raise DataError("expected training samples that have each modality, but one is in none of them")
        scaled, rest = standardise(train[there], test[others], axes)
        train, test = torch.zeros_like(train), torch.zeros_like(test)
        train[there], test[others] = scaled, rest
        return train, test
    mean = train.mean(tuple(axes), keepdim=True)
    deviation = train.std(tuple(axes), correction=0, keepdim=True)
    deviation = torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation))
    return (train - mean) / deviation, (test - mean) / deviation
