"""What a recipe says of missing inputs, as `subsense.adapt` takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

import subsense as ss
from subsense.errors import RecipeError, closest
from subsense.modalities.filling import FillSpec
from subsense.recipes.values import FILLS

Named = Mapping[str, Mapping[str, Any]]
"""Modality -> name -> value of a constant: what a data set offers."""


def make_fill(
    recipe: str, asked: str | Mapping[str, Any], named: Named, batches: Callable[[], Iterable[Any]] | None = None
) -> FillSpec:
    """Make the fill that a recipe asks for.

    Args:
        recipe: what the user called it, for the message.
        asked: ``"zeros"``, ``"mean"`` or ``"learned"``, or modality -> one of these, a name of `named`, a number, or
            argument -> number or list.
        named: the data set's own stand-ins.
        batches: makes the batches whose mean is taken; None: it is put in later.

    Raises:
        RecipeError: a name that neither subsense nor the data set knows.

    >>> make_fill("mine", {"image": "white", "text": "zeros"}, {"image": {"white": 1.0}})
    {'image': Constant(value=1.0, name='white'), 'text': 'zeros'}
    """
    mean = ss.Mean(batches() if batches and _asks_for_mean(asked) else None)
    if isinstance(asked, str):
        return mean if asked == "mean" else asked
    return {modality: _fill(recipe, modality, one, named.get(modality, {}), mean) for modality, one in asked.items()}


def _asks_for_mean(asked: str | Mapping[str, Any]) -> bool:
    return "mean" in ([asked] if isinstance(asked, str) else asked.values())


def _fill(recipe: str, modality: str, asked: Any, named: Mapping[str, Any], mean: ss.Mean) -> Any:
    if isinstance(asked, Mapping):
        return ss.Constant({argument: torch.tensor(value) for argument, value in asked.items()})
    if not isinstance(asked, str):
        return ss.Constant(asked, name=f"the constant {asked}")
    if asked in named:
        return ss.Constant(named[asked], name=asked)
    if asked not in FILLS:
        known = [*FILLS, *named]
        raise RecipeError(
            recipe,
            [f"adapt.fill.{modality}: unknown fill {asked!r}; known: {', '.join(known)}.{closest(asked, known)}"],
        )
    return mean if asked == "mean" else asked
