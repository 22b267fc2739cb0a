"""A request as JSON <-> one row of inputs, and one row of output.

``{"inputs": {"rgb": [[...], ...], "text": {"input_ids": [...], "attention_mask": [...]}}}``: one row without the batch
axis, as nested lists, or as ``{"npy": "..."}``, an array as `numpy.save` writes it, in base64. A modality that is
absent or null is missing.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsense.errors import InputError, closest
from subsense.modalities import Axes, Modalities, Modality
from subsense.modalities.inputs import check_finite, read
from subsense.modalities.masks import find_masks

Row = dict[str, Any]
"""Modality -> tensor (1, *axes), or argument -> tensor where several carry it."""


def read_row(modalities: Modalities, payload: Any) -> Row:
    """Read one row of a request, checked as a call of the model checks it.

    Raises:
        InputError: another form, an unknown name, a wrong shape, a number that is NaN or infinite, nothing at all.
    """
    inputs = payload.get("inputs") if isinstance(payload, Mapping) else None
    if not isinstance(inputs, Mapping):
        raise InputError('expected {"inputs": {modality: numbers}}, one row without the batch axis')
    for name in inputs:
        if name not in modalities:
            raise InputError(f"unknown modality {name!r}; the modalities are {', '.join(modalities)}."
                             f"{closest(str(name), modalities)}")  # fmt: skip
    row = {name: _values(modalities[name], value) for name, value in inputs.items() if value is not None}
    masks, _ = find_masks(modalities)
    check_finite(modalities, read(modalities, row), masks)
    return row


def write_row(output: Any, row: int) -> Any:
    """Give one row of an output as plain lists: a tensor, or a mapping or list of them."""
    if isinstance(output, Tensor):
        return output[row].tolist()
    if isinstance(output, Mapping):
        return {name: write_row(value, row) for name, value in output.items() if value is not None}
    if isinstance(output, tuple | list):
        return [write_row(value, row) for value in output]
    return output


def _values(modality: Modality, value: Any) -> Any:
    if modality.is_single:
        return _tensor(modality.name, modality.parts[modality.name], value)
    if not isinstance(value, Mapping) or set(value) != set(modality.parts):
        found = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        raise InputError(
            f"modality {modality.name!r}: expected values for {', '.join(modality.parts)}, but found {found}"
        )
    return {part: _tensor(part, axes, value[part]) for part, axes in modality.parts.items()}


def _tensor(name: str, axes: Axes, value: Any) -> Tensor:
    array = _array(name, value)
    try:
        tensor = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"input {name!r}: expected numbers in rows of equal length ({error})") from None
    if tensor.is_floating_point() and not axes.torch_dtype.is_floating_point:
        raise InputError(f"input {name!r}: expected whole numbers ({axes}), but found fractions")
    return tensor.to(axes.torch_dtype)[None]


def _array(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if set(value) != {"npy"} or not isinstance(value["npy"], str):
        raise InputError(f"input {name!r}: expected nested lists, or {{'npy': base64}}, but found {sorted(value)}")
    try:
        data = base64.b64decode(value["npy"], validate=True)
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (binascii.Error, ValueError, OSError, EOFError) as error:
        raise InputError(f"input {name!r}: not an array of numpy.save in base64 ({error})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InputError(f"input {name!r}: expected one array of numbers")
    if not math.prod(array.shape):
        raise InputError(f"input {name!r}: expected at least one number, but found shape {array.shape}")
    return array.astype(array.dtype.newbyteorder("="))
