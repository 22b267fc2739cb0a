"""Forwards that a backward pass runs parts of again, as activation checkpointing does: their routes are kept.

Which forward it is, is read from the node whose backward pass asks for the recomputation: nodes are numbered as they
are made, and each forward knows its first number and its last. A route is kept as long as the graph that may need it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from subsense.errors import UnsupportedLayer
from subsense.injection.site import Site
from subsense.support.torch_private import keep_with, next_node, node_in_backward

if TYPE_CHECKING:
    from subsense.injection.forward_pass import ForwardPass


@dataclass(eq=False)
class Past:
    """Hold a forward that has ended, and the numbers of its graph's nodes."""

    running: ForwardPass
    nodes: range


class Passes:
    """Know the forwards whose graphs are alive; a copy knows none."""

    def __init__(self) -> None:
        self._known: weakref.WeakSet[Past] = weakref.WeakSet()

    def __deepcopy__(self, memo: dict[int, Any]) -> Passes:
        return Passes()

    def __reduce__(self) -> tuple[type[Passes], tuple[()]]:
        return Passes, ()

    def keep(self, running: ForwardPass, first: int, outputs: Iterable[Tensor]) -> None:
        """Keep a forward that has ended, as long as the graph of one of its outputs."""
        graphs = [tensor for tensor in outputs if tensor.grad_fn is not None]
        if graphs and running.route is not None:
            route = running.route.replayed()
            again = replace(running, route=route, watched=[], observed=None, done=None, replays=True)
            past = Past(again, range(first, next_node()))
            self._known.add(past)
            for tensor in graphs:
                keep_with(tensor, past)

    def again(self, site: Site) -> ForwardPass:
        """Give the forward of which a part is being run again, or raise `UnsupportedLayer`."""
        node = node_in_backward()
        found = [past.running for past in self._known if node in past.nodes]
        if len(found) != 1:
            raise UnsupportedLayer(
                f"{site.key} ({site.layer.class_name}): the network runs it again in the backward pass (activation "
                "checkpointing), and it isn't known any more for which rows: a checkpoint within a checkpoint, or a "
                "backward pass in another thread than the forward's; switch it off there"
            )
        return found[0]
