"""Count the graphs that `torch.compile` makes of one model, and warn of the last one.

Torch keeps a few graphs for each model (8), runs every further case uncompiled, and says so in its log alone. A model
that is called without `present` needs a graph for each combination that is passed.
"""

from __future__ import annotations

import warnings

from subsense.support.torch_private import constant_in_graphs, most_graphs


class Graphs:
    """Count the graphs that one model has been compiled to."""

    def __init__(self) -> None:
        self.count = 0

    @constant_in_graphs
    def traced(self) -> int:
        """Count a graph that is being made; warn where torch will make no further one."""
        self.count += 1
        most = most_graphs()
        if self.count == most:
            warnings.warn(
                f"torch.compile has made {most} graphs of this model, one for each combination that was passed, and "
                "runs every further one uncompiled. One graph serves all of them if you pass `present` and tensors for "
                "all modalities (what is missing is not read); or allow more: torch.compile(..., recompile_limit=...)",
                stacklevel=2,
            )
        return self.count
