"""What autograd keeps for the adapters, so that training keeps little: the one place that decides it.

A site's output can stand in for what the adapter got, ``y = (out - beta) / gamma``, and the next layer mostly keeps it
anyway. That is right only if nothing changes the output before the backward pass. A layer that works in place
(`nn.ReLU(inplace=True)`) changes it, and torch's version counter tells. So a site begins as an unknown, and hands on a
copy of what is kept; after a forward in which its output stayed as it was, it is steady, and hands on the output
itself. One whose output was changed, or is handed to the caller, is restless for good, and goes on with copies. Either
way the numbers are the same, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from subsense.adapters.affine import Recall
from subsense.adapters.layers.layer import Layer
from subsense.errors import PlanError, closest
from subsense.support.torch_private import version_of

State = Literal["unknown", "steady", "restless"]
Watched = tuple[str, Tensor, int]
"""(site, what it handed on, the version of that)."""
MEMORY = ("normal", "low", "checkpoint")


class SavedOutputs:
    """Know what may be assumed of each site's output.

    Args:
        memory: ``"normal"``, or ``"low"``: normalisation layers run once more in the backward pass where rows differ,
            so that their outputs aren't kept; see docs/performance.md for what that saves and costs. Or
            ``"checkpoint"``: whole blocks run once more, see `subsense.injection.checkpointing`.
    """

    def __init__(self, memory: str = "normal") -> None:
        if memory not in MEMORY:
            raise PlanError(
                f"memory: expected one of {', '.join(MEMORY)}, but found {memory!r}.{closest(str(memory), MEMORY)}"
            )
        self.memory = memory
        self._states: dict[str, State] = {}

    def state(self, site: str) -> State:
        """Give what is known of a site's output."""
        return self._states.get(site, "unknown")

    def recall(self, layer: Layer, module: nn.Module, x: Tensor, alone: bool) -> Recall:
        """Say how one call of a site gets the layer's output back.

        Args:
            layer, module: the layer.
            x: its input.
            alone: no one else has seen its output.
        """
        steady = self.state(layer.key) == "steady"
        if layer.declared:  # what a class of the user's own does with its output isn't known
            return Recall(steady)
        again = self.memory == "low" and layer.kind.keeps_input and x.requires_grad
        return Recall(steady, partial(type(module).forward, module) if again else None, spare=alone)

    def learn(self, watched: Sequence[Watched], outputs: Iterable[Tensor]) -> bool:
        """Learn from a forward that has ended, given what it hands out; say whether its graph has lost an output."""
        handed = {tensor.untyped_storage().data_ptr() for tensor in outputs}
        changed = {
            site
            for site, output, version in watched
            if version_of(output) != version or output.untyped_storage().data_ptr() in handed
        }
        lost = any(self.state(site) == "steady" for site in changed)
        for site, _, _ in watched:
            if site in changed or self.state(site) == "unknown":
                self._states[site] = "restless" if site in changed else "steady"
        return lost
