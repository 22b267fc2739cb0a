"""Whether the layers that were adapted are still in the network: whoever replaces one takes its adapters away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from subsense.errors import PlanError


class InPlace:
    """Know where adapted layers are.

    Args:
        network: holds them.
        paths: where.
    """

    def __init__(self, network: nn.Module, paths: Iterable[str]) -> None:
        modules = dict(network.named_modules(remove_duplicate=False))
        self.network = network
        self._there = [(path, modules[path]) for path in paths]
        steps = dict.fromkeys(step for path, _ in self._there for step in _steps(path))
        self._steps = [(modules[above], name, modules[below]) for above, name, below in steps]

    def check(self, attached: bool = True) -> None:
        """Raise `PlanError` where a layer isn't there any more: its adapters can't act.

        Once they are detached there is nothing to check: the network is the user's own.
        """
        if not attached or all(getattr(above, name, None) is module for above, name, module in self._steps):
            return
        now = dict(self.network.named_modules(remove_duplicate=False))
        gone = [path for path, module in self._there if now.get(path) is not module]
        raise PlanError(
            f"{', '.join(gone)}: replaced since `adapt` (fused, quantised or converted), so its adapters can't "
            "act; put it back, or detach, change the network, and adapt it then; to fuse or quantise what is "
            "trained, fold first: subsense.fold gives a network without adapters"
        )


def _steps(path: str) -> Iterator[tuple[str, str, str]]:
    """Give each step from the network down to a module: path above, name there, path below.

    >>> list(_steps("encoder.0"))
    [('', 'encoder', 'encoder'), ('encoder', '0', 'encoder.0')]
    """
    names = path.split(".") if path else []
    for depth, name in enumerate(names):
        yield ".".join(names[:depth]), name, ".".join(names[: depth + 1])
