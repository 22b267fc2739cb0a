"""What norms get that make statistics of a row's own: how much they will multiply rounding by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

CONSTANT = 10.0
"""A mean beyond this multiple of the spread that a norm divides by: to a norm, the map is constant."""
SUSPICIOUS = 1e3
"""What such norms multiply rounding by, together, from which on a network is run again to compare."""
SAMPLE = 2**16


def makes_statistics(module: nn.Module) -> bool:
    """Say whether a module is a norm that takes means off, with statistics made of the row that it gets."""
    if isinstance(module, _InstanceNorm):
        return module.running_mean is None
    if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
        return True
    name = type(module).__name__.lower()
    own = "norm" in name and "rms" not in name and not isinstance(module, (_BatchNorm, nn.RMSNorm))
    return own and not any(True for _ in module.children())


class Watch:
    """Note how much norms multiply rounding by, in one call.

    Args:
        norms: path -> norm.
        num_rows: of the batch.

    Attributes:
        paths: those that got a constant map.
    """

    def __init__(self, norms: Mapping[str, nn.Module], num_rows: int) -> None:
        self._norms, self._total = norms, torch.zeros(num_rows, dtype=torch.float64)
        self.paths: list[str] = []

    @contextmanager
    def on(self) -> Iterator[Watch]:
        """Watch for a while."""
        handles = [
            norm.register_forward_pre_hook(lambda module, args, path=path: self._note(path, module, args))
            for path, norm in self._norms.items()
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def suspicious(self, rows: Sequence[bool]) -> int | None:
        """Give of those rows the one in which most becomes of rounding; None where it stays small in all."""
        total = self._total.masked_fill(~torch.tensor(rows), 0.0)
        return int(total.argmax()) if float(total.max()) >= log(SUSPICIOUS) else None

    def _note(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor) or args[0].is_nested or not args[0].is_floating_point():
            return
        factors = _factors(module, args[0].detach())
        if factors is None or float(factors.max()) < CONSTANT:
            return
        self.paths += [path] if path not in self.paths else []
        factors = factors if len(factors) == len(self._total) else factors.max().expand(len(self._total))
        self._total += factors.clamp(min=1).log().masked_fill(factors < CONSTANT, 0)


def _factors(module: nn.Module, x: Tensor) -> Tensor | None:
    """Give by how much a norm multiplies rounding, for each row of what it gets; None where it isn't known."""
    x = x if x.dtype == torch.float64 else x.float()
    if isinstance(module, nn.LayerNorm):
        groups = x.flatten(-len(module.normalized_shape)) if len(module.normalized_shape) > 1 else x
    elif isinstance(module, nn.GroupNorm):
        groups = x.reshape(len(x), module.num_groups, -1)
    elif x.dim() > 3 or isinstance(module, _InstanceNorm):
        groups = x.flatten(2) if x.dim() > 2 else x[None]
    else:
        return None
    if groups.dim() < 2 or not groups.numel():
        return None
    eps = getattr(module, "eps", 1e-5)
    spread = (groups.var(-1, correction=0) + (eps if isinstance(eps, float) else 1e-5)).sqrt()
    factors: Tensor = (groups.mean(-1).abs() / spread).nan_to_num(0.0).reshape(len(groups), -1).amax(1).cpu()
    return factors


@contextmanager
def values_of(norms: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Keep a sample of what norms give, path -> values in float64, in the order of calls."""
    values: dict[str, Tensor] = {}

    def keep(path: str, output: Any) -> None:
        if isinstance(output, Tensor) and not output.is_nested and output.numel():
            flat = output.detach().reshape(-1)
            values[path] = flat[:: max(1, len(flat) // SAMPLE)].double()

    handles = [
        norm.register_forward_hook(lambda module, args, output, path=path: keep(path, output))
        for path, norm in norms.items()
    ]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()
