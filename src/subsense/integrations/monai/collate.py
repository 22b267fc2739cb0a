"""Batches of MONAI's samples, which are dictionaries, some of them lists of patches, some without a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities.collating import Collate
from subsense.modalities.declaration import AxisSpec, Modalities


class DictCollate:
    """Make a batch of MONAI's samples: the `collate_fn` of a `DataLoader` over a `CacheDataset` or any other.

    A sample is a dictionary, or a list of them (the patches of `RandCropByPosNegLabeld`, each of which is a row). It
    holds one entry for each modality, of which any may be absent or None (`LoadImaged(..., allow_missing_keys=True)`),
    or all of them as the channels of one entry. Tensors come out plain, without MONAI's metadata: a call gives
    ``({modality: tensor (batch, ...), "present": bool (batch, modality)}, target)``, or the inputs alone.

    Args:
        modalities: as passed to `adapt`, or `RobustModel.modalities`.
        label: the entry with the target; None: there is none.
        image: the entry whose channels are the modalities, in declared order; None: an entry for each.

    Raises:
        InputError: a sample of another form, without its label, or with another number of channels.

    >>> collate = DictCollate({"t1": "1 D H W", "t2": "1 D H W"})
    >>> patch = {"t1": torch.zeros(1, 4, 4, 4), "label": torch.zeros(3, 4, 4, 4), "case": "BraTS-GLI-00000-000"}
    >>> inputs, target = collate([[patch, patch], [{**patch, "t2": torch.ones(1, 4, 4, 4)}]])
    >>> inputs["present"].tolist(), target.shape
    ([[True, False], [True, False], [True, True]], torch.Size([3, 3, 4, 4, 4]))
    """

    def __init__(
        self, modalities: Modalities | Mapping[str, AxisSpec], label: str | None = "label", image: str | None = None
    ) -> None:
        self.modalities = modalities if isinstance(modalities, Modalities) else Modalities(modalities)
        self.label, self.image = label, image
        self._collate = Collate(self.modalities)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Make a batch."""
        return self._collate([self._row(row, number) for number, row in enumerate(_flat(samples))])

    def _row(self, sample: Mapping[str, Any], number: int) -> Any:
        inputs = self._inputs(sample, number)
        if "present" in sample:
            inputs["present"] = sample["present"]
        if self.label is None:
            return inputs
        if sample.get(self.label) is None:
            raise InputError(f"sample {number}: expected a target in {self.label!r}, but found {', '.join(sample)}")
        return inputs, _plain(sample[self.label])

    def _inputs(self, sample: Mapping[str, Any], number: int) -> dict[str, Any]:
        if self.image is None:
            return {name: _plain(sample[name]) for name in self.modalities if sample.get(name) is not None}
        channels = [
            size for modality in self.modalities.values() for axes in modality.parts.values() for size in axes.sizes[:1]
        ]
        image = sample.get(self.image)
        sizes = [size for size in channels if isinstance(size, int)]
        if image is None or len(sizes) < len(self.modalities) or image.shape[0] != sum(sizes):
            found = f"found {', '.join(sample)}" if image is None else f"found shape {tuple(image.shape)}"
            raise InputError(
                f"sample {number}: expected {self.image!r} with {' + '.join(map(str, channels))} channels "
                f"({', '.join(self.modalities)}), but {found}"
            )
        return dict(zip(self.modalities, _plain(image).split(sizes), strict=True))


def _flat(samples: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    for number, sample in enumerate(samples):
        if isinstance(sample, Mapping):
            yield sample
        elif isinstance(sample, (list, tuple)):
            yield from _flat(sample)
        else:
            raise InputError(
                f"sample {number}: expected a dictionary, or a list of them, but found {type(sample).__name__}"
            )


def _plain(value: Any) -> Tensor:
    return torch.as_tensor(value).as_subclass(Tensor)
