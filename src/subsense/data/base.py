"""What a data set is here: two lists of samples, and the facts that training and tables need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from subsense.errors import DataError

Item = tuple[dict[str, Tensor], Tensor]


class Samples(Dataset[Item]):
    """Hold samples in memory, one tensor per modality.

    Args:
        inputs: `{modality: (num_samples, ...)}`.
        targets: int64, `(num_samples,)` for classification, `(num_samples, H, W)` for segmentation.
        groups: for each sample what must not be shared between training and test: the subject, video or scene.

    `samples[i]` is `({modality: tensor}, target)`, which torch's default collate turns into a batch.

    >>> samples = Samples({"rgb": torch.zeros(2, 3)}, torch.tensor([0, 1]), groups=["a", "b"])
    >>> samples[1]
    ({'rgb': tensor([0., 0., 0.])}, tensor(1))
    """

    def __init__(self, inputs: Mapping[str, Tensor], targets: Tensor, groups: Sequence[str]) -> None:
        lengths = {len(tensor) for tensor in (*inputs.values(), targets)} | {len(groups)}
        assert len(lengths) == 1, f"modalities, targets and groups differ in number: {sorted(lengths)}"
        self.inputs = dict(inputs)
        self.targets = targets
        self.groups = tuple(groups)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Item:
        return {name: tensor[index] for name, tensor in self.inputs.items()}, self.targets[index]


@dataclass(frozen=True)
class Data:
    """Describe a data set: its modalities, its samples, its task, and whom to cite.

    Attributes:
        name: the name it is loaded by.
        modalities: `{modality: axis string}`, in the order of columns in every table.
        train, test: the two parts of a fixed split.
        task: `"classification"` or `"segmentation"`.
        class_names: in the order of the class indices.
        metric: the name of the measure that the field reports.
        source, licence, citation: where it comes from, its terms, and the authors to cite beside every result.
    """

    name: str
    modalities: dict[str, str]
    train: Samples
    test: Samples
    task: Literal["classification", "segmentation"]
    class_names: tuple[str, ...]
    metric: str
    source: str
    licence: str
    citation: str

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.class_names)


def locate(name: str, root: str | Path | None, folder: str, files: Sequence[str], source: str) -> Path:
    """Find a data set's folder under `root`, with every one of `files` in it.

    Raises:
        DataError: no root, or a file absent; names the file expected and where the data comes from.
    """
    if root is None:
        raise DataError(
            f"{name} needs root=..., the folder that holds {folder}/{files[0]}. Nothing is downloaded: {source}"
        )
    for file in files:
        path = Path(root) / folder / file
        if not path.is_file():
            raise DataError(f"{name}: expected the file {path}, but there is none. {source}")
    return Path(root) / folder


def standardise(train: Tensor, test: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Shift and scale both parts to zero mean and unit deviation **of the training part**, pooled over `axes`.

    The test part has no say in the statistics. What never varies in training becomes 0 in training.

    >>> standardise(torch.tensor([[1.0], [3.0]]), torch.tensor([[4.0]]), axes=[0])
    (tensor([[-1.],
            [ 1.]]), tensor([[2.]]))
    """
    mean = train.mean(tuple(axes), keepdim=True)
    deviation = train.std(tuple(axes), correction=0, keepdim=True)
    deviation = torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation))
    return (train - mean) / deviation, (test - mean) / deviation
