"""Plan + network + banks -> hooks.

Hooks leave classes, weights and `state_dict` alone, and come off without a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks
from torch.utils.hooks import RemovableHandle

from subsense.adapters.affine import Recall
from subsense.adapters.autograd import is_plain
from subsense.adapters.base import Adapter, Mix, Route
from subsense.errors import LayerNeverCalled, PlanError, UnsupportedLayer
from subsense.injection.attention import AdaptedAttention
from subsense.injection.banks import Banks
from subsense.injection.planning import Plan, Site
from subsense.injection.raw_weights import AdaptedForward
from subsense.injection.saved_outputs import Recalls
from subsense.injection.scaled_layer import Scaling
from subsense.injection.scaled_norm import Normalising

Observed = dict[str, list[Tensor]]
"""Site -> its outputs, one for each time it was called."""
Visitor = Callable[[Site, nn.Module, Tensor, Tensor], Tensor]
"""(site, its layer, input, the layer's own output) -> what is handed on in its place."""


class Injection:
    """Let adapters act at the sites of a network.

    Args:
        network: the network, as `check_unadapted` wants it.
        plan: its sites.
        banks: their parameters.
    """

    def __init__(self, network: nn.Module, plan: Plan, banks: Banks) -> None:
        self.network, self.plan, self.banks, self.recalls = network, plan, banks, Recalls()
        # Made once: a compiled graph knows them, and stays valid when they come off and go on again.
        self._attentions = self._make_attentions()
        self._forwards: dict[nn.Module, Any] = {**self._attentions, **self._make_layers()}
        self._hooks = self._make_hooks()
        self._handles: list[RemovableHandle] = []
        self._route: Route | None = None
        self._observed: Observed | None = None
        self._visitor: Visitor | None = None
        self._busy = False
        self._folded: Tensor | None = None
        self._folds, self._dtype = False, banks.dtype
        self.attach()

    def attach(self) -> None:
        """Put the hooks on."""
        self.attached = True
        # Before the network's own hooks: what the layer itself gives is what a folded layer gives.
        self._handles = [
            module.register_forward_hook(hook, with_kwargs=True, prepend=True) for module, hook in self._hooks
        ]
        for module, forward in self._forwards.items():
            vars(module).setdefault("forward", forward)  # somebody else's, put on meanwhile, calls this one

    def detach(self) -> None:
        """Take every hook off."""
        if self.attached:
            self.attached = False
            for handle in self._handles:
                handle.remove()
            for module, forward in self._forwards.items():
                if vars(module).get("forward") is forward:
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
        plain = is_plain()
        if plain and torch.is_grad_enabled():
            route.pick(self.banks.by_channel())
        self._route, self._folds = route, plain and route.uniform and self._observed is None
        self._dtype = self.banks.dtype
        try:
            yield
        finally:
            self._route, self._folded, self._folds = None, None, False
            self.recalls.forget()

    @contextmanager
    def observing(self) -> Iterator[Observed]:
        """Keep what each site gives: adapted along a route, and as it is where there is none."""
        observed: Observed = {}
        self._observed = observed
        try:
            yield observed
        finally:
            self._observed = None

    @contextmanager
    def visited(self, visitor: Visitor) -> Iterator[None]:
        """Let a visitor say what each site gives, in the place of its adapters; `PlanError` where they are detached."""
        if not self.attached:
            raise PlanError(f"{type(self.network).__name__} was detached, so no adapter can act; adapt it again")
        self._visitor = visitor
        try:
            yield
        finally:
            self._visitor = None

    def check_called(self, calls: Mapping[str, Any]) -> None:
        """Raise `LayerNeverCalled` for sites that a forward did not reach."""
        silent = [site.layer.path for site in self.plan.sites if site.key not in calls]
        if silent:
            names = list(dict.fromkeys(silent))
            raise LayerNeverCalled(
                f"the network's forward never calls {', '.join(names)}, so adapters there can't act (it may "
                f"use the weights directly); leave them out: exclude={names}"
            )

    def adapt(self, site: Site, module: nn.Module, x: Tensor, y: Tensor, alone: bool = True) -> Tensor:
        """Give a site's adapted output from its input and output; `alone`: no one else has seen the output."""
        if self._busy:
            return y
        if self._visitor is not None:
            y = self._visit(self._visitor, site, module, x, y)
        elif self._route is None:
            _check_not_recomputing(site)
        else:
            y = self._act(self._route, site, module, x, y, alone)
        if self._observed is not None:
            self._observed.setdefault(site.key, []).append(y.detach())
        return y

    def _act(self, route: Route, site: Site, module: nn.Module, x: Tensor, y: Tensor, alone: bool) -> Tensor:
        _check_tensors(site, x, y)
        self._busy = True
        try:
            return self._chain(route, site, module, x, y, alone)
        finally:
            self._busy = False

    def _visit(self, visitor: Visitor, site: Site, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        _check_tensors(site, x, y)
        self._busy = True
        try:
            return visitor(site, module, x, y)
        finally:
            self._busy = False

    def _chain(self, route: Route, site: Site, module: nn.Module, x: Tensor, y: Tensor, alone: bool) -> Tensor:
        recall = None
        if not torch.compiler.is_compiling():
            recall = self.recalls.of(site.layer, module, x, y, alone, route.uniform)
        mix = route.visit(site.key, recall)
        for number, adapter in enumerate(site.adapters):
            if number == 1 and recall is not None:
                mix = mix.recalling(Recall(recall.output))  # only the first one's y is the layer's output
            y = adapter.apply(site.layer, module, self.banks.of(site, adapter), mix, x, y)
        if recall is not None:
            self.recalls.watch(site.key, y, recall)
        return y

    def fold_in(self, site: Site, layer: FoldedLayer, x: Tensor) -> Tensor | None:
        """Give a site's adapted output in one go; None where that can't be, or costs more."""
        route = self._route
        if not self._folds or self._busy or route is None or torch._C._are_functorch_transforms_active():
            return None
        if not isinstance(x, Tensor) or not layer.pays(x, self._dtype):
            return None
        mix = route.visit(site.key)
        sets = [(adapter, self._set(site, adapter, mix)) for adapter in site.adapters]
        self._folded = layer(x, sets, self.recalls.state(site.key))
        if layer.keeps_output:
            self.recalls.watch(site.key, self._folded, Recall(output=True))
        return self._folded

    def _set(self, site: Site, adapter: Adapter, mix: Mix) -> Mapping[str, Tensor]:
        """Give the adapter set of a batch whose rows are alike."""
        banks = self.banks.of(site, adapter)
        if adapter in site.by_channel:
            return {name: mix.vector(bank) for name, bank in banks.items()}
        return adapter.merge({name: mix.rows(bank) for name, bank in banks.items()}, mix.weights)

    def is_folded(self, y: Any) -> bool:
        """Say whether an output is what `fold_in` has just given; once, since a layer may hand on what it got."""
        if y is None or y is not self._folded:
            return False
        self._folded = None
        return True

    def _make_layers(self) -> dict[nn.Module, FoldedForward]:
        found = {}
        for site, module in self._places():
            layer = _folded_layer(site, module)
            if layer is not None:
                found[module] = FoldedForward(self, site, layer)
        return found

    def _make_attentions(self) -> dict[nn.Module, AdaptedAttention | AdaptedForward]:
        parts: dict[nn.Module, dict[str, Site]] = {}
        for site, module in self._places():
            if site.layer.part:
                parts.setdefault(module, {})[site.layer.part] = site
        return {module: self._make_forward(module, sites) for module, sites in parts.items()}

    def _make_forward(self, module: nn.Module, sites: Mapping[str, Site]) -> AdaptedAttention | AdaptedForward:
        parts = AttentionParts(self, sites, module)
        if any(type(module) is declaration.cls for declaration in self.plan.declared):
            return AdaptedForward(module, [site.layer for site in sites.values()], parts)
        assert isinstance(module, nn.MultiheadAttention)
        return AdaptedAttention(module, parts)

    def _make_hooks(self) -> list[tuple[nn.Module, SiteHook]]:
        hooks = [(module, SiteHook(self, site)) for site, module in self._places() if not site.layer.part]
        return hooks + [(module, SiteHook(self, None)) for module in self._attentions]

    def _places(self) -> Iterator[tuple[Site, nn.Module]]:
        modules = dict(self.network.named_modules(remove_duplicate=False))
        for site in self.plan.sites:
            for path in site.modules:
                yield site, modules[path]


class SiteHook:
    """Be the hook on one layer; without a site it only keeps torch's fused paths, which read weights, away."""

    def __init__(self, injection: Injection, site: Site | None) -> None:
        self.injection, self.site = injection, site

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Give the adapted output."""
        if self.site is None or self.injection.is_folded(output):
            return output
        x = args[0] if args else next(iter(kwargs.values()))
        return self.injection.adapt(self.site, module, x, output, alone=self._is_first(module))

    def _is_first(self, module: nn.Module) -> bool:
        return next(iter(module._forward_hooks.values())) is self and not _global_forward_hooks


FoldedLayer = Normalising | Scaling


class FoldedForward:
    """Be the forward of a layer which takes its adapters into its own parameters where it can.

    Where rows differ, or a graph is made, it is the layer's own, and the hook adapts the output.
    """

    def __init__(self, injection: Injection, site: Site, layer: FoldedLayer) -> None:
        self.injection, self.site, self.layer = injection, site, layer

    def __call__(self, input: Tensor) -> Tensor:
        """Run the layer."""
        folded = self.injection.fold_in(self.site, self.layer, input)
        if folded is not None:
            return folded
        output: Tensor = type(self.layer.module).forward(self.layer.module, input)
        return output


def _folded_layer(site: Site, module: nn.Module) -> FoldedLayer | None:
    layer = site.layer
    if layer.run is None:
        return None
    if layer.run.back is None:
        return Normalising(layer, module, layer.run)
    return Scaling(layer, module, layer.run) if len(site.by_channel) == len(site.adapters) else None


class AttentionParts:
    """Adapt the projections of one attention layer that are sites, and leave the others alone."""

    def __init__(self, injection: Injection, sites: Mapping[str, Site], module: nn.Module) -> None:
        self.injection, self.sites, self.module = injection, sites, module

    def __call__(self, part: str, x: Tensor, y: Tensor) -> Tensor:
        """Give the adapted output of one projection."""
        return self.injection.adapt(self.sites[part], self.module, x, y) if part in self.sites else y


def check_unadapted(network: nn.Module) -> None:
    """Raise `PlanError` where a network, or a part of it, is adapted already."""
    if any(isinstance(hook, SiteHook) for module in network.modules() for hook in module._forward_hooks.values()):
        raise PlanError(f"{type(network).__name__} is adapted already; call detach() on that model first")


def _check_not_recomputing(site: Site) -> None:
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise UnsupportedLayer(
            f"{site.key} ({site.layer.class_name}): the network runs it again in the backward pass (activation "
            "checkpointing), when it isn't known any more which rows lack what; switch that off in the network"
        )


def _check_tensors(site: Site, x: Any, y: Any) -> None:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise UnsupportedLayer(
            f"{site.key} ({site.layer.class_name}): expected one tensor in and one out, but found "
            f"{type(x).__name__} and {type(y).__name__}; exclude=[{site.layer.path!r}]"
        )
