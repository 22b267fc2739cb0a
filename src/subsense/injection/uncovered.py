"""What no site could act on, whatever the method: named in a warning where it is much of the network."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn

from subsense.adapters.layers.declare import AttentionClass
from subsense.adapters.layers.layer import Layer
from subsense.support.tables import format_share

MOST = 0.1
"""Share of the parameters, embeddings aside, that may be no layer's without a warning."""
NAMED = 3
_TABLES = nn.Embedding, nn.EmbeddingBag


def uncovered(network: nn.Module, covered: Iterable[int]) -> dict[str, int]:
    """Give the parameters of no layer that adapters could serve, embeddings aside: name -> number of elements.

    Args:
        network: the network.
        covered: ids of the parameters of layers that adapters could serve, wanted or not.
    """
    known = set(covered) | {id(one) for one in _embeddings(network)}
    return {name: one.numel() for name, one in network.named_parameters() if id(one) not in known}


def warn_of_uncovered(network: nn.Module, names: Mapping[str, int], stacklevel: int) -> None:
    """Warn where they are more than a tenth of the network: the largest, and what declares them."""
    aside = {id(one) for one in _embeddings(network)}
    total = sum(one.numel() for one in network.parameters() if id(one) not in aside)
    share = sum(names.values()) / max(1, total)
    if share > MOST:
        warnings.warn(
            f"adapters reach no layer that holds {format_share(share)} of the parameters of {type(network).__name__}, "
            f"embeddings aside: {'; '.join(_classes(network, names))}. `print(robust.plan)` names them all",
            stacklevel=stacklevel + 1,
        )


def _embeddings(network: nn.Module) -> list[nn.Parameter]:
    return [one for module in network.modules() if isinstance(module, _TABLES) for one in module.parameters()]


def _classes(network: nn.Module, names: Mapping[str, int]) -> list[str]:
    """Name the classes which hold most, with one parameter each, and what declares them."""
    owners = {name: network.get_submodule(name.rpartition(".")[0]) for name in names}
    counts = Counter[type[nn.Module]]()
    for name, count in names.items():
        counts[type(owners[name])] += count
    found = []
    for cls, count in counts.most_common(NAMED):
        first = max((name for name in names if type(owners[name]) is cls), key=lambda name: names[name])
        found.append(f"{cls.__name__} {count:,} ({first}), {_way_out(cls, owners[first])}")
    return found


def _way_out(cls: type[nn.Module], module: nn.Module) -> str:
    """Say what declares a class; tried on one of its modules."""
    for text, declaration in (
        (f"AttentionClass({cls.__name__})", AttentionClass(cls)),
        (f"AttentionClass({cls.__name__}, bias=None)", AttentionClass(cls, bias=None)),
    ):
        if all(isinstance(layer, Layer) for layer in declaration.describe("", module)):
            return f"which layers=[{text}] declares if its forward multiplies by them in F.linear"
    return "which no declaration serves yet"
