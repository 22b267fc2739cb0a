"""Count the graphs that `torch.compile` makes of one model, and warn of the last one.

Torch keeps a few graphs for each model (8), runs every further case uncompiled, and says so in its log alone. A model
that is called without `present` needs a graph for each combination that is passed.
"""

from __future__ import annotations

import warnings

import torch


class Graphs:
    """Count the graphs that one model has been compiled to."""

    def __init__(self) -> None:
        self.count = 0

    def traced(self) -> int:
        """Count a graph that is being made; warn where torch will make no further one."""
        self.count += 1
        most: int = torch._dynamo.config.recompile_limit
        if self.count == most:
            warnings.warn(
                f"torch.compile has made {most} graphs of this model, one for each combination that was passed, and "
                "runs every further one uncompiled. One graph serves all of them if you pass `present` and tensors for "
                "all modalities (what is missing is not read); or allow more: torch.compile(..., recompile_limit=...)",
                stacklevel=2,
            )
        return self.count

    # Run while a graph is traced, and no part of it: what `torch.compiler.assume_constant_result` says too, for the
    # price of importing torch._dynamo wherever subsense is imported.
    traced.__dict__["_dynamo_marked_constant"] = True
