"""An output with what is known of it: value, set, confidence, abstention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities.inputs import Batch, named
from subsense.model.confidence import Prediction
from subsense.model.scores import select_scores
from subsense.support.modules import evaluating

if TYPE_CHECKING:
    from subsense.model.robust import RobustModel


def predict(robust: RobustModel, batch: Batch, *, select: Callable[[Any], Tensor] = select_scores) -> Prediction:
    """Run a checked batch in eval mode, without gradients, and say how far the answer can be trusted.

    Raises:
        InputError: nothing was calibrated, or an output of another kind than was.
    """
    trusted = robust.confidence
    if trusted is None:
        raise InputError(
            "predict: nothing says how far this network can be trusted; first call subsense.confidence(robust, loader) "
            "with labelled rows that it wasn't trained on, and save it again"
        )
    quality = batch.present if batch.quality is None else batch.quality
    given = named(robust.modalities, {name: parts for name, parts in batch.tensors.items() if parts is not None})
    with evaluating(robust), torch.no_grad():
        scores = select(robust(given, quality))
    if len(scores) != batch.num_rows or (trusted.task == "classes" and scores.dim() < 2):
        raise InputError(
            f"predict: expected scores of {batch.num_rows} rows, (batch, class, ...) for classes, but found "
            f"{tuple(scores.shape)}; select=lambda output: ... takes them out of the output"
        )
    codes = [robust.router.substitute(code, training=False) for code in batch.codes(robust.modalities)]
    served = [str(robust.modalities.from_code(code)) for code in codes]
    return trusted.read(scores, quality, robust.modalities, served)
