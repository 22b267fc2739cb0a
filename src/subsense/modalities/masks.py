"""Which arguments of a modality are masks, what their values say, and what stands in for one that is missing.

A mask of zeros hides every token, and attention over nothing is NaN, zeros or a mean, by code path. So a missing mask
keeps something: the first token, as of an empty text, or all of a picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Axes, Modalities, Modality
from subsense.modalities.inputs import Batch, some

Key = tuple[str, str]
"""A modality and one of its parts."""

_MASK = re.compile(r"(^|_)mask(_?\d+)?$", re.IGNORECASE)
_IGNORES = re.compile(r"key_padding_mask(_?\d+)?$", re.IGNORECASE)
_KEEPS = re.compile(r"(^|_)(attention|pixel|input)_mask(_?\d+)?$", re.IGNORECASE)
_PADDING = re.compile(r"padding_mask(_?\d+)?$", re.IGNORECASE)
_PICTURES = re.compile(r"(^|_)pixel_(attention_)?mask(_?\d+)?$", re.IGNORECASE)
_SCORES = re.compile(r"(key_padding|attention|attn|src|tgt|memory)_mask(_?\d+)?$", re.IGNORECASE)
_OTHER = re.compile(r"head_mask$", re.IGNORECASE)
"""Ends like a mask, but is none of tokens."""


@dataclass(frozen=True)
class Mask:
    """Say how an argument masks its modality: the values that mean "read" and "hidden", the last axis being the tokens.

    Attributes:
        argument: what the network calls it.
        axes: its declared axes.
        read: the value that lets a token be read.
        hidden: the value that hides it.
        keeps_all: whether a stand-in keeps everything, as of a picture, or the first token alone.
    """

    argument: str
    axes: Axes
    read: float
    hidden: float
    keeps_all: bool = False

    def stand_in(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Give the mask of what is missing, (batch, *axes)."""
        values = torch.tensor([self.read, self.hidden], dtype=self.axes.torch_dtype, device=device)
        place = torch.arange(1 if self.keeps_all else shape[-1], device=device)
        mask: Tensor = values[place.clamp(max=1)].expand(shape).contiguous()
        return mask

    def hides_all(self, mask: Tensor) -> Tensor:
        """Say of which rows it hides everything: bool (batch,)."""
        is_added = self.hidden == float("-inf")
        hidden = mask <= torch.finfo(mask.dtype).min / 2 if is_added else mask == self.hidden
        return hidden.reshape(len(mask), -1).all(1)

    def __str__(self) -> str:
        says = f"{self.read:g} is read, {self.hidden:g} hidden"
        return f"{self.argument} keeps {'everything' if self.keeps_all else 'the first token'} ({says})"


def find_masks(
    modalities: Modalities, arguments: Mapping[Key, str] | None = None
) -> tuple[dict[Key, Mask], dict[Key, str]]:
    """Tell the masks among the arguments of modalities that several arguments carry, by name, dtype and role.

    ``attention_mask``, ``pixel_mask`` and ``input_mask``, alone or behind another word, are 1 where something is read,
    as in transformers, and so is any integer mask; ``key_padding_mask`` is True where it is ignored, as in torch.
    Floating-point masks of attention are added to scores, 0 or -inf, except for an ``attention_mask`` of one axis.

    Args:
        modalities: the declared ones.
        arguments: (modality, part) -> argument, where it isn't the part's own name.

    Returns:
        The masks, and the arguments that are called a mask without saying whether 1 is read or hidden.

    >>> masks, doubtful = find_masks(Modalities({"text": {"input_ids": "L:int64", "attention_mask": "L:int64",
    ...     "mask": "L:bool"}, "rgb": "3 H W"}))
    >>> str(masks["text", "attention_mask"]), list(doubtful)
    ('attention_mask keeps the first token (1 is read, 0 hidden)', [('text', 'mask')])
    """
    masks: dict[Key, Mask] = {}
    doubtful: dict[Key, str] = {}
    for name, modality in modalities.items():
        for part, argument, axes in _candidates(name, modality, arguments or {}):
            mask = _read_mask(argument, axes)
            if mask is None:
                doubtful[name, part] = argument
            else:
                masks[name, part] = mask
    return masks, doubtful


def ask(modality: Modality, part: str, argument: str) -> str:
    """Ask what a doubtful mask's values mean, in words."""
    name, values = modality.name, dict.fromkeys(modality.parts, 0)
    read = values | {part: 1}
    return (
        f"modality {name!r}: {argument!r} is called a mask, but neither its name nor its dtype says whether 1 is read "
        f"or hidden, so it is filled with zeros where {name!r} is missing. If 1 is read, that hides everything, and "
        f"attention over nothing is NaN. Say which: fill={{{name!r}: subsense.Constant({read})}} where 1 is read, "
        f"subsense.Constant({values}) where 0 is"
    )


def hidden(
    modalities: Modalities,
    masks: Mapping[Key, Mask],
    tensors: Mapping[str, tuple[Tensor, ...] | None],
    present: Tensor | None = None,
) -> str:
    """Name the masks that hide all of a row: ``every token of text is masked (attention_mask in rows 2)``.

    With `present`, bool (batch, modality), rows that lack a modality don't count.
    """
    found = []
    for (name, part), mask in masks.items():
        given = tensors[name]
        if given is None:
            continue
        hides = mask.hides_all(given[list(modalities[name].parts).index(part)])
        if present is not None:
            hides = hides & present[:, modalities.names.index(name)].to(hides.device)
        if rows := hides.nonzero().flatten().tolist():
            where = "" if len(rows) == len(hides) else f" in {some(rows)}"
            found.append(f"every token of {name} is masked ({mask.argument}{where})")
    return ", ".join(found)


def check_masks(modalities: Modalities, masks: Mapping[Key, Mask], batch: Batch) -> None:
    """Raise `InputError` where a mask hides all of what is present."""
    if found := hidden(modalities, masks, batch.tensors, batch.present):
        raise InputError(
            f"{found}, and attention or a mean over nothing is NaN, zeros or a mean, by code path; let a token be "
            "read, or say in `present` that these rows lack it"
        )


def _candidates(name: str, modality: Modality, arguments: Mapping[Key, str]) -> Iterator[tuple[str, str, Axes]]:
    """Give what is called a mask and has tokens."""
    named = {part: arguments.get((name, part), part) for part in modality.parts}
    called = [part for part, argument in named.items() if _MASK.search(argument) and not _OTHER.search(argument)]
    if len(called) < len(named):  # a mask has something to mask
        for part in (one for one in called if modality.parts[one].sizes):
            yield part, named[part], modality.parts[part]


def _read_mask(argument: str, axes: Axes) -> Mask | None:
    """Say what a mask's values mean; None where that can't be told."""
    picture = bool(_PICTURES.search(argument))
    keeps = picture or bool(_KEEPS.search(argument))
    if axes.torch_dtype.is_floating_point and not picture and not (keeps and len(axes.sizes) == 1):
        return Mask(argument, axes, 0.0, float("-inf")) if _SCORES.search(argument) else None
    if _IGNORES.search(argument):
        return Mask(argument, axes, 0, 1)
    counts = axes.torch_dtype != torch.bool and not axes.torch_dtype.is_floating_point
    keeps = keeps or (counts and not _PADDING.search(argument))
    return Mask(argument, axes, 1, 0, keeps_all=picture) if keeps else None
