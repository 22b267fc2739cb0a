"""Layers that use their weights in a way of their own, and are adapted as `fold` would: recurrent ones, packed experts.

No hook sees what they multiply by. So while adapters act, the layer's own forward runs with its parameters as the set
makes them. That is one set for all rows of a batch: batches whose rows differ run in groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from subsense.injection.site import Site

if TYPE_CHECKING:
    from subsense.injection.hooks import Injection


class AdaptedWhole:
    """Be the forward of a layer whose adapters act in its parameters.

    Args:
        injection: knows what is running.
        module: the layer; its parameters are read, never changed.
        sites: its weights that are adapted.
    """

    def __init__(self, injection: Injection, module: nn.Module, sites: Sequence[Site]) -> None:
        self.injection, self.module, self.sites = injection, module, tuple(sites)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the class's own forward."""
        running = self.injection.current(self.sites[0])
        values: Mapping[str, Tensor] = {}
        if running is not None and running.route is not None and not running.busy and running.visitor is None:
            values = running.whole(self.module, self.sites)
        with _in_place_of(self.module, values):
            output = type(self.module).forward(self.module, *args, **kwargs)
        if running is not None and running.observed is not None and not running.busy:
            first = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
            for site in self.sites:
                running.observed.setdefault(site.key, []).append(first.detach())
        return output


@contextmanager
def _in_place_of(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module find other values where it reads its parameters."""
    places = dict(values)
    own = vars(module)
    flat = own.get("_flat_weights")
    if isinstance(module, nn.RNNBase) and values:  # it reads them from a list
        own["_flat_weights"] = [
            values.get(name, weight) for name, weight in zip(module._flat_weights_names, flat or (), strict=True)
        ]
        places = {}
    own.update(places)
    try:
        yield
    finally:
        for name in places:
            del own[name]
        if isinstance(module, nn.RNNBase) and values:
            own["_flat_weights"] = flat
