"""Hold one site of a network, and count what is trained there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch

from subsense.adapters import Adapter
from subsense.adapters.base import Shapes
from subsense.adapters.common import is_common
from subsense.adapters.layers.layer import Layer
from subsense.errors import PlanError, UnsupportedLayer


@dataclass(frozen=True)
class Site:
    """Hold one site: a layer, all places where the network has it, and the adapters that act there.

    Attributes:
        layer: what the adapters know of it.
        modules: the module paths at which it acts: several where weights are tied.
        adapters: adapter -> the shapes of its parameters in one bank row.
    """

    layer: Layer
    modules: tuple[str, ...]
    adapters: Mapping[Adapter, Shapes]

    @property
    def key(self) -> str:
        """Name the site."""
        return self.layer.key

    @cached_property
    def by_channel(self) -> tuple[Adapter, ...]:
        """Give the adapters which do no more than scale and shift channels; see `Adapter.pair`."""
        return tuple(adapter for adapter, shapes in self.adapters.items() if _has_pair(self.layer, adapter, shapes))

    @property
    def num_parameters(self) -> int:
        """Count the parameters of one bank row."""
        return sum(_count(shapes) for adapter, shapes in self.adapters.items() if not is_common(adapter))

    @property
    def num_common(self) -> int:
        """Count the parameters that all incomplete combinations share; see `subsense.Common`."""
        return sum(_count(shapes) for adapter, shapes in self.adapters.items() if is_common(adapter))

    @property
    def label(self) -> str:
        """Write the adapters, and what they train where that isn't all they can: ``ssf (scale)``."""
        return ", ".join(
            f"{adapter.name} ({', '.join(shapes)})" if len(shapes) == 1 and adapter.name not in _ALONE else adapter.name
            for adapter, shapes in self.adapters.items()
        )


def _count(shapes: Shapes) -> int:
    return sum(map(prod, shapes.values()))


def _has_pair(layer: Layer, adapter: Adapter, shapes: Shapes) -> bool:
    pair = adapter.pair(layer, {name: torch.zeros(shape) for name, shape in shapes.items()})
    for one in pair or ():
        if one is not None and one.shape != layer.features:
            raise PlanError(
                f"{layer.key} ({layer.class_name}): method {adapter.name!r} gave a gamma or beta of shape "
                f"{tuple(one.shape)} in pair(), but the layer's features are {layer.features}"
            )
    return pair is not None


def check_alone(site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise where a layer known by what it computes of one tensor is given more than that."""
    given = [value for value in (*args, *kwargs.values()) if value is not None]
    if len(given) != 1:
        raise UnsupportedLayer(
            f"{site.key} ({site.layer.class_name}): the network calls it with {len(given)} arguments, and what it "
            f"computes is known of one tensor alone; exclude=[{site.layer.path!r}]"
        )


_ALONE = frozenset({"scale", "shift", "bitfit"})
