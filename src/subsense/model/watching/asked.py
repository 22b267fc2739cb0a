"""``present="auto"``, or a stream: what is present is found out from the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Modalities
from subsense.modalities.inputs import read
from subsense.model.watching.stream import Stream

if TYPE_CHECKING:
    from subsense.model.watching.watch import Watch

AUTO = "auto"
Present = Tensor | Stream | str | None
"""Which modalities each row has, or who is to find it out."""


def found_present(modalities: Modalities, monitor: Watch | None, inputs: Mapping[str, Any], asked: Present) -> Tensor:
    """Give the quality of a batch, float (batch, modality), as a monitor finds it.

    What the inputs' own ``"present"`` says is missing stays so.

    Raises:
        InputError: another word, no monitor, a stream of another model, or a graph that is being compiled.
    """
    if torch.compiler.is_compiling():
        raise InputError(
            "`present`: a graph can't look at its input; find out before it: "
            "graph(inputs, present=robust.monitor(inputs).quality)"
        )
    if not isinstance(asked, Stream) and asked != AUTO:
        raise InputError(
            "`present`: expected a bool tensor (batch, modality), a float one with qualities, 'auto', or a stream of "
            f"the model's monitor, but found {asked!r}"
        )
    if monitor is None:
        raise InputError(
            "`present`: nobody has learned what healthy input is, so it can't be found out what is present; "
            "subsense.Monitor(robust, healthy_loader) does, and is saved with the model"
        )
    if isinstance(asked, Stream) and asked.watch is not monitor:
        raise InputError("`present`: this stream is of another monitor; begin one by robust.monitor.stream()")
    batch = read(modalities, inputs)
    health = asked.judge(batch) if isinstance(asked, Stream) else monitor.judge(batch)
    return health.quality.to(batch.device)
