"""Which rows show what adapters do: those on which the frozen network fails and the adapted one doesn't."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subsense.modalities import Combination
from subsense.model.scores import are_finite

if TYPE_CHECKING:
    from subsense.model.robust import RobustModel

Scores = Callable[[Callable[..., Any], Mapping[str, Any], Combination], Tensor]
"""How a model is run on one sample with a combination: run, inputs, combination -> scores."""
CLEAR = 0.05
"""Of the pixels of a picture: by so many more one network must be right than the other."""


@dataclass(frozen=True)
class Choice:
    """Hold which samples to show, with what taken away, and how they were chosen, in words."""

    samples: tuple[int, ...]
    start: str = ""
    note: str = ""


def choose(
    robust: RobustModel,
    samples: Sequence[tuple[Mapping[str, Any], Tensor]],
    combinations: Sequence[Combination],
    scores: Scores,
    keep: int,
) -> Choice:
    """Choose samples for the combination with the most rows that adapters put right; these come first.

    Args:
        robust: the model.
        samples: complete ones are looked at.
        combinations: those that lack something are tried.
        scores: runs one of them.
        keep: how many samples to show.
    """
    spread = [number * len(samples) // keep for number in range(keep)] if len(samples) > keep else range(len(samples))
    whole = [number for number, (inputs, _) in enumerate(samples) if set(robust.modalities) <= set(inputs)]
    tried = [one for one in combinations if len(one) < len(robust.modalities)]
    if not whole or not tried:
        return Choice(tuple(spread))
    gains = {one: {row: _gain(robust, samples[row], one, scores) for row in whole} for one in tried}
    best = max(tried, key=lambda one: (sum(map(_is_clear, gains[one].values())), sum(gains[one].values())))
    found = gains[best]
    better = sorted((row for row in whole if _is_clear(found[row])), key=lambda row: -found[row])
    worse = sum(_is_clear(-gain) for gain in found.values())
    if not better:
        return Choice(tuple(spread))
    rest = [row for row in spread if row not in better]
    what = "a row is right" if samples[0][1].ndim == 0 and not samples[0][1].is_floating_point() else "a row is better"
    note = (
        f"Not drawn at random: of {len(whole)} rows looked at with {best} alone, {what} with the adapters and not "
        f"without them on {len(better)}, which come first here, and the other way round on {worse}."
    )
    return Choice((*better, *rest)[:keep], str(best), note)


def _is_clear(gain: float) -> bool:
    return gain > CLEAR


def _gain(
    robust: RobustModel, sample: tuple[Mapping[str, Any], Tensor], combination: Combination, scores: Scores
) -> float:
    inputs, target = sample
    before, after = (_goodness(scores(run, inputs, combination), target) for run in (robust.pretrained, robust))
    return after - before


def _goodness(scores: Tensor, target: Tensor) -> float:
    """Say how right scores are: 1 or 0 for a class, a share for pixels, less the error for values."""
    if not bool(are_finite(scores[None]).all()):
        return -1.0
    if scores.ndim == 3:
        counts = (target >= 0) & (target < len(scores))
        return float((scores.argmax(0) == target)[counts].float().mean())
    if target.is_floating_point() or scores.numel() == 1:
        return -float((scores.flatten() - target.flatten()).abs().mean())
    return float(torch.tensor(int(scores.argmax()) == int(target)))
