"""Plan + network -> hooks and banks.

Hooks leave classes, weights and `state_dict` alone, and come off without a trace.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from subsense.adapters.base import Adapter, Route
from subsense.attention import AdaptedAttention
from subsense.errors import LayerNeverCalled, PlanError, UnsupportedLayer
from subsense.plan import Plan, Site

Observed = dict[str, list[Tensor]]
"""Site -> its outputs, one for each time it was called."""


class Banks(nn.Module):
    """Hold the trained parameters of all sites, each stacked: (bank row, ...).

    Args:
        plan: the sites.
        num_rows: number of bank rows.
        like: the network; banks are float64 where it is, on its device, and float32 otherwise.
        generator: where starts are drawn from.
    """

    def __init__(self, plan: Plan, num_rows: int, like: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        for name, (site, adapter, parameter) in bank_names(plan).items():
            shape = (num_rows, *site.adapters[adapter][parameter])
            bank = torch.zeros(shape, dtype=_bank_dtype(like))
            for row in bank:
                adapter.start(parameter, row, generator)
            self.register_parameter(_attribute(name), nn.Parameter(bank.to(_device(like))))
        self.names = tuple(bank_names(plan))

    def named(self) -> dict[str, nn.Parameter]:
        """Give the banks by name: ``site:adapter:parameter``."""
        return {name: self.get_parameter(_attribute(name)) for name in self.names}

    def of(self, site: Site, adapter: Adapter) -> dict[str, Tensor]:
        """Give the banks of one adapter at one site."""
        prefix = _attribute(f"{site.key}:{adapter.name}")
        return {name: getattr(self, f"{prefix}:{name}") for name in site.adapters[adapter]}


class Injection:
    """Let adapters act at the sites of a network.

    Args:
        network: the network, as `check_unadapted` wants it.
        plan: its sites.
        banks: their parameters.
    """

    def __init__(self, network: nn.Module, plan: Plan, banks: Banks) -> None:
        self.network, self.plan, self.banks = network, plan, banks
        self.handles: list[RemovableHandle] = []
        self._route: Route | None = None
        self._observed: Observed | None = None
        self._busy = False
        self.attach()

    def attach(self) -> None:
        """Put the hooks on."""
        self.attached = True
        for site in self.plan.sites:
            for path in site.modules:
                self._attach(site, self.network.get_submodule(path))

    def detach(self) -> None:
        """Take every hook off."""
        self.attached = False
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        for module in self.network.modules():
            if isinstance(vars(module).get("forward"), AdaptedAttention):
                del module.forward

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the network for a while exactly as it was before `attach`."""
        was_attached = self.attached
        self.detach()
        try:
            yield
        finally:
            if was_attached:
                self.attach()

    @contextmanager
    def using(self, route: Route) -> Iterator[None]:
        """Let adapters act along a route; raise `PlanError` where they have been detached."""
        if not self.attached:
            raise PlanError(f"{type(self.network).__name__} was detached, so no adapter can act; adapt it again")
        self._route = route
        try:
            yield
        finally:
            self._route = None

    @contextmanager
    def observing(self) -> Iterator[Observed]:
        """Let no adapter act, and keep what each site gives."""
        observed: Observed = {}
        self._observed = observed
        try:
            yield observed
        finally:
            self._observed = None

    def check_called(self, calls: Mapping[str, Any]) -> None:
        """Raise `LayerNeverCalled` for sites that a forward did not reach."""
        silent = [site.layer.path for site in self.plan.sites if site.key not in calls]
        if silent:
            names = list(dict.fromkeys(silent))
            raise LayerNeverCalled(
                f"the network's forward never calls {', '.join(names)}, so adapters there can't act (it may "
                f"use the weights directly); leave them out: exclude={names}"
            )

    def adapt(self, site: Site, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Give a site's adapted output from its input and output."""
        if self._observed is not None:
            self._observed.setdefault(site.key, []).append(y.detach())
        if self._route is None or self._busy:
            return y
        _check_tensors(site, x, y)
        mix = self._route.visit(site.key)
        self._busy = True
        try:
            for adapter in site.adapters:
                y = adapter.apply(site.layer, module, self.banks.of(site, adapter), mix, x, y)
        finally:
            self._busy = False
        return y

    def _attach(self, site: Site, module: nn.Module) -> None:
        if not isinstance(module, nn.MultiheadAttention) or not site.layer.part:
            hook = SiteHook(self, site)
            # Before the network's own hooks: what the layer itself gives is what a folded layer gives.
            self.handles.append(module.register_forward_hook(hook, with_kwargs=True, prepend=True))
        elif "forward" not in vars(module):
            self.handles.append(module.register_forward_hook(SiteHook(self, None), with_kwargs=True))
            sites = {site.layer.part: site for site in self._parts(module)}
            module.forward = AdaptedAttention(module, AttentionParts(self, sites, module))  # type: ignore[method-assign]

    def _parts(self, module: nn.Module) -> Iterator[Site]:
        for site in self.plan.sites:
            if site.layer.part and any(self.network.get_submodule(path) is module for path in site.modules):
                yield site


class SiteHook:
    """Be the hook on one layer; without a site it only keeps torch's fused paths, which read weights, away."""

    def __init__(self, injection: Injection, site: Site | None) -> None:
        self.injection, self.site = injection, site

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Give the adapted output."""
        if self.site is None:
            return output
        x = args[0] if args else next(iter(kwargs.values()))
        return self.injection.adapt(self.site, module, x, output)


class AttentionParts:
    """Adapt the projections of one attention layer that are sites, and leave the others alone."""

    def __init__(self, injection: Injection, sites: Mapping[str, Site], module: nn.Module) -> None:
        self.injection, self.sites, self.module = injection, sites, module

    def __call__(self, part: str, x: Tensor, y: Tensor) -> Tensor:
        """Give the adapted output of one projection."""
        return self.injection.adapt(self.sites[part], self.module, x, y) if part in self.sites else y


_SWITCH = threading.Lock()
_FOUND: list[bool] = []


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep torch's fused transformer path, which neither calls hooks nor knows adapters, switched off for a while.

    The switch is torch's, one for all threads: the last to leave sets it to what the first one found.
    """
    if torch.compiler.is_compiling():
        yield
        return
    with _SWITCH:
        _FOUND.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _SWITCH:
            found = _FOUND.pop()
            if not _FOUND:
                torch.backends.mha.set_fastpath_enabled(found)


def check_unadapted(network: nn.Module) -> None:
    """Raise `PlanError` where a network, or a part of it, is adapted already."""
    if any(isinstance(hook, SiteHook) for module in network.modules() for hook in module._forward_hooks.values()):
        raise PlanError(f"{type(network).__name__} is adapted already; call detach() on that model first")


def bank_names(plan: Plan) -> dict[str, tuple[Site, Adapter, str]]:
    """Name every bank of a plan: ``site:adapter:parameter``."""
    return {
        f"{site.key}:{adapter.name}:{name}": (site, adapter, name)
        for site in plan.sites
        for adapter, shapes in site.adapters.items()
        for name in shapes
    }


def _check_tensors(site: Site, x: Any, y: Any) -> None:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise UnsupportedLayer(
            f"{site.key} ({site.layer.class_name}): expected one tensor in and one out, but found "
            f"{type(x).__name__} and {type(y).__name__}; exclude=[{site.layer.path!r}]"
        )


def _attribute(name: str) -> str:
    return name.replace(".", "/")


def _bank_dtype(network: nn.Module) -> torch.dtype:
    dtypes = {parameter.dtype for parameter in network.parameters()}
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
