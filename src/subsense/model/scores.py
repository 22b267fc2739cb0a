"""Scores in a network's output: which tensor they are, and which rows of them can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsense.errors import MetricError


def select_scores(output: Any) -> Tensor:
    """Pick the tensor out of a network's output: the output itself, its ``.logits`` or its ``["logits"]``.

    Raises:
        MetricError: none of these; the caller has to say which it is, by ``select=``.

    >>> select_scores({"logits": torch.ones(2)})
    tensor([1., 1.])
    """
    scores = output
    if isinstance(output, Mapping):
        scores = output.get("logits")
    elif not isinstance(output, Tensor):
        scores = getattr(output, "logits", None)
    if isinstance(scores, Tensor):
        return scores
    raise MetricError(
        f"the network's output is of class {type(output).__name__}, and which of its tensors to use isn't known: "
        "pass select=, such as select=lambda output: output[0]"
    )


def are_finite(scores: Tensor, of_classes: bool = True) -> Tensor:
    """Say which rows of scores (batch, ...) can be scored: bool (batch,).

    Scores of classes (batch, class, ...) can where the best one is a finite number at every position, so that -inf may
    rule classes out. Values can where all are finite.

    >>> are_finite(torch.tensor([[0.2, float("-inf")], [float("nan"), 0.1]]))
    tensor([ True, False])
    """
    values = scores.detach()[None] if not scores.dim() else scores.detach()
    if not values.is_floating_point() or not values.numel():
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    best = values.amax(1) if of_classes and values.dim() > 1 else values
    return best.isfinite().reshape(len(values), -1).all(1)
