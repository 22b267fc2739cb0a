"""What may be assumed at each site, so that autograd keeps little: learned from the forwards that have been run.

A site's output can stand in for what the adapter got only if nothing changes it before the backward pass. A layer that
works in place (`nn.ReLU(inplace=True)`) changes it, and torch's version counter tells. So a site begins as an unknown;
after a forward in which its output stayed as it was, it is steady; one whose output was changed, or is handed to the
caller, is restless for good. A steady site whose output no one else kept is lonely: if its layer makes much of little,
keeping its input and running it once more is lighter.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from subsense.adapters.affine import Recall
from subsense.adapters.layers.layer import Layer

State = Literal["unknown", "steady", "lonely", "restless"]
WIDENING = 4
"""A lonely site's layer is run again if its output has so many times the numbers of its input."""


class Recalls:
    """Know what may be assumed of each site's tensors.

    Attributes:
        learned: whether a forward has been watched.
    """

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._watched: list[tuple[str, Tensor, int]] = []
        self.learned = False

    def state(self, site: str) -> State:
        """Give what is known of a site's output."""
        return self._states.get(site, "unknown")

    def of(self, layer: Layer, module: nn.Module, x: Tensor, y: Tensor, alone: bool, uniform: bool) -> Recall:
        """Say how a call of a site may get the layer's output back.

        Args:
            layer, module: the layer.
            x, y: its input and its output.
            alone: no other hook has seen its output.
            uniform: all rows are alike, when most layers take their adapters in and memory is no concern.
        """
        state = self.state(layer.key)
        output = state in ("steady", "lonely")
        if not type(module).forward.__module__.startswith("torch."):
            return Recall(output)
        keeps_input = layer.kind.keeps_input and x.requires_grad
        widens = state == "lonely" and not uniform and not layer.part and WIDENING * x.numel() <= y.numel()
        again = partial(type(module).forward, module) if keeps_input or widens else None
        return Recall(output and not widens, again, spare=alone)

    def watch(self, site: str, output: Tensor, recall: Recall) -> None:
        """Remember what a site gave, as it is now, where something may come to depend on it."""
        if recall.layer is None and torch.is_grad_enabled() and self.state(site) != "restless":
            self._watched.append((site, output, output._version))

    def settle(self, outputs: Iterable[Tensor]) -> bool:
        """Learn from a forward that has ended, given what it hands out; say whether its graph has lost an output."""
        handed = {tensor.untyped_storage().data_ptr() for tensor in outputs}
        lost = sum(self._is_lost(*one, handed) for one in self._watched) > 0  # all of them, not the first alone
        storages = {site: StorageWeakRef(output.untyped_storage()) for site, output, _ in self._watched}
        self.forget()
        self.learned = True
        for site, storage in storages.items():
            if self.state(site) == "unknown":
                self._states[site] = "lonely" if storage.expired() else "steady"
        return lost

    def _is_lost(self, site: str, output: Tensor, version: int, handed: set[int]) -> bool:
        if output._version == version and output.untyped_storage().data_ptr() not in handed:
            return False
        was, self._states[site] = self.state(site), "restless"
        return was not in ("unknown", "restless")

    def forget(self) -> None:
        """Let go of all outputs."""
        self._watched = []
