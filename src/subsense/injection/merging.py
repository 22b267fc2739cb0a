"""Sites that are one: a convolution and the BatchNorm behind it are one affine map of each channel in eval mode.

Scaling and shifting before the norm does nothing that scaling and shifting behind it doesn't, so the convolution's
adapter is left out. That one follows the other is certain in an `nn.Sequential` alone, so only there it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from subsense.adapters import Adapter
from subsense.adapters.base import Shapes
from subsense.injection.site import Site
from subsense.support.torch_private import BatchNorm, Convolution, forward_hooks, own_forward


def merge_affine(network: nn.Module, sites: Sequence[Site]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """Leave out what adapters do at a convolution where they do it at the BatchNorm behind it.

    Args:
        network: the network.
        sites: its sites.

    Returns:
        The sites that are left, and the names of those from which something was taken.
    """
    norms = dict(_pairs(network))
    paths = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    modules = dict(network.named_modules(remove_duplicate=False))
    alone = {site.key: site for site in sites if len(site.modules) == 1 == paths[id(modules[site.layer.path])]}
    left, merged = [], []
    for site in sites:
        norm = alone.get(norms.get(site.key, "")) if site.key in alone else None
        own = site.adapters if norm is None else _not_at(norm, site)
        if len(own) < len(site.adapters):
            merged.append(site.key)
        if own:
            left.append(site if len(own) == len(site.adapters) else replace(site, adapters=own))
    return tuple(left), tuple(merged)


def _pairs(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Give the paths of a convolution and the BatchNorm that an `nn.Sequential` runs right after it."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            prefix = f"{path}." if path else ""
            for (first, conv), (second, norm) in pairwise(module.named_children()):
                if _is_affine(conv, norm):
                    yield f"{prefix}{first}", f"{prefix}{second}"


def _is_affine(conv: nn.Module, norm: nn.Module) -> bool:
    """Say whether two layers in turn are one affine map in eval mode, with nothing of the network's own between."""
    return (
        isinstance(conv, Convolution)
        and isinstance(norm, BatchNorm)
        and norm.track_running_stats
        and not own_forward(type(conv))
        and not own_forward(type(norm))
        and not list(forward_hooks(conv))
        and not norm._forward_pre_hooks
    )


def _not_at(norm: Site, site: Site) -> Mapping[Adapter, Shapes]:
    """Give the convolution's adapters but for those by channel that the norm has, and that add nothing there."""
    return {
        adapter: shapes
        for adapter, shapes in site.adapters.items()
        if not (adapter in site.by_channel and adapter in norm.by_channel and _is_closed(adapter, norm))
    }


def _is_closed(adapter: Adapter, norm: Site) -> bool:
    """Say whether one pair behind the norm does all that one before it and one behind it do: a scale alone doesn't."""
    row = {name: torch.zeros(shape) for name, shape in norm.adapters[adapter].items()}
    pair = adapter.pair(norm.layer, row)
    return pair is not None and pair[1] is not None
