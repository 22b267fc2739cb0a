"""Check that a data set fits the declared modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from subsense.modalities import AxisSpec, Modalities
from subsense.modalities.inputs import read
from subsense.testing.promises import assert_that, equal


def check_dataset(dataset: Any, modalities: Mapping[str, AxisSpec], *, num_items: int = 8) -> None:
    """Check that a data set's items fit the declared modalities, and that reading one twice gives the same.

    Args:
        dataset: map-style: ``dataset[i]`` is ``(inputs, target)``, inputs without a batch axis.
        modalities: name -> axis string.
        num_items: how many items to look at, spread evenly.

    Raises:
        AssertionError, InputError: an item that does not fit.
    """
    assert len(dataset), "expected a data set with items, but found an empty one"
    declared = Modalities(modalities)
    for index in range(0, len(dataset), max(1, len(dataset) // num_items)):
        (inputs, target), (again, target_again) = dataset[index], dataset[index]
        assert_that(set(inputs) - {"present"} <= set(declared), f"item {index}: unknown modalities in {sorted(inputs)}")
        read(declared, {name: _batched(value) for name, value in inputs.items() if value is not None})
        same = all(equal(value, again[name]) for name, value in inputs.items())
        assert_that(same and equal(target, target_again), f"item {index}: reading it twice gives different values")


def _batched(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: torch.as_tensor(tensor)[None] for name, tensor in value.items()}
    return torch.as_tensor(value)[None]
