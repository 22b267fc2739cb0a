"""Plan + network + banks -> hooks.

Hooks leave classes, weights and `state_dict` alone, and come off without a trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from subsense.adapters.autograd import is_plain
from subsense.adapters.base import Route
from subsense.errors import LayerNeverCalled, PlanError
from subsense.injection.attention import AdaptedAttention
from subsense.injection.banks import Banks
from subsense.injection.forward_pass import FoldedLayer, ForwardPass, Observed, Visitor
from subsense.injection.fused_attention import plain_encoders
from subsense.injection.generating import Generating
from subsense.injection.planning import Plan
from subsense.injection.raw_weights import AdaptedForward
from subsense.injection.saved_outputs import SavedOutputs
from subsense.injection.scaled_layer import Scaling
from subsense.injection.scaled_norm import Normalising
from subsense.injection.site import Site, check_alone
from subsense.support.torch_private import all_hooks, in_backward, is_first_hook, next_node

if TYPE_CHECKING:
    from subsense.injection.in_place import InPlace
    from subsense.injection.recomputing import Passes
    from subsense.injection.whole_layers import AdaptedWhole


class Injection:
    """Let adapters act at the sites of a network.

    Args:
        network: the network, as `check_unadapted` wants it.
        plan: its sites.
        banks: their parameters.

    Attributes:
        running: the forward that is being run, None where there is none.
        saved: what is known of the sites' outputs.
        passes: forwards whose graphs are alive.
        folds: whether layers may take their adapters into their own parameters where that is faster.
    """

    def __init__(self, network: nn.Module, plan: Plan, banks: Banks) -> None:
        self.network, self.plan, self.banks, self.saved = network, plan, banks, SavedOutputs()
        self.folds = True
        self.passes = _passes()
        self.running: ForwardPass | None = None
        # Made once: a compiled graph knows them, and stays valid when they come off and go on again.
        self._attentions = self._make_attentions()
        self._forwards: dict[nn.Module, Any] = {**self._attentions, **self._make_layers()}
        self._forwards |= plain_encoders(network, (module for _, module in self._places()))
        self._blocks: dict[nn.Module, Any] = {}
        self._hooks = self._make_hooks()
        self._inner = [_inner_hook(self, site, module) for site, module in self._places() if site.layer.seen]
        self._in_place = _in_place(network, [path for site in plan.sites for path in site.modules])
        self._handles: list[RemovableHandle] = []
        self._generating = Generating(network, self.may_generate)
        self.attach()

    def attach(self) -> None:
        """Put the hooks on."""
        self.attached = True
        # Before the network's own hooks: what the layer itself gives is what a folded layer gives.
        self._handles = [
            module.register_forward_hook(hook, with_kwargs=True, prepend=True) for module, hook in self._hooks
        ]
        self._handles += [module.register_forward_pre_hook(hook, prepend=True) for module, hook in self._inner]
        for module, forward in {**self._blocks, **self._forwards}.items():
            vars(module).setdefault("forward", forward)  # somebody else's, put on meanwhile, calls this one
        self._generating.attach()

    def detach(self) -> None:
        """Take every hook off."""
        if self.attached:
            self.attached = False
            self._generating.detach()
            for handle in self._handles:
                handle.remove()
            for module, forward in {**self._blocks, **self._forwards}.items():
                if vars(module).get("forward") is forward:
                    del module.forward

    def spend(self, saved: SavedOutputs) -> None:
        """Spend memory in another way."""
        with self.paused():
            self.saved = saved
            self._blocks = _checkpointed(self) if saved.memory == "checkpoint" else {}

    def may_generate(self) -> bool:
        """Say whether the model is calling the network, or adapters are off."""
        return self.running is not None or not self.attached

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
    def bypassed(self) -> Iterator[None]:
        """Run the network without adapters; raise `PlanError` where it isn't the one that was adapted."""
        self._in_place.check(self.attached)
        with self.paused():
            yield

    @contextmanager
    def using(self, route: Route) -> Iterator[ForwardPass]:
        """Let adapters act along a route; raise `PlanError` where they have been detached."""
        self._check_attached()
        plain = is_plain()
        if plain and torch.is_grad_enabled():
            route.pick(self.banks.by_channel())
        observed = None if self.running is None else self.running.observed
        folds = self.folds and plain and route.uniform and observed is None
        with self._run(
            ForwardPass(
                self.banks,
                self.saved,
                route,
                observed=observed,
                folds=folds,
                dtype=self.banks.dtype,
                grads=plain and torch.is_grad_enabled(),
                first=next_node() if plain else 0,
            )
        ) as running:
            yield running

    @contextmanager
    def observing(self) -> Iterator[Observed]:
        """Keep what each site gives: adapted along a route, and as it is where there is none."""
        self._in_place.check(self.attached)
        observed: Observed = {}
        with self._run(ForwardPass(self.banks, self.saved, observed=observed)):
            yield observed

    @contextmanager
    def visited(self, visitor: Visitor) -> Iterator[None]:
        """Let a visitor say what each site gives, in the place of its adapters; `PlanError` where they are detached."""
        self._check_attached()
        with self._run(ForwardPass(self.banks, self.saved, visitor=visitor)):
            yield

    @contextmanager
    def _run(self, running: ForwardPass) -> Iterator[ForwardPass]:
        outer, self.running = self.running, running
        try:
            yield running
        finally:
            self.running = outer

    def _check_attached(self) -> None:
        if not self.attached:
            raise PlanError(f"{type(self.network).__name__} was detached, so no adapter can act; adapt it again")

    def check_called(self, calls: Mapping[str, Any]) -> None:
        """Raise `LayerNeverCalled` for sites that a forward did not reach."""
        silent = [site.layer.path for site in self.plan.sites if site.key not in calls]
        if silent:
            self.check_in_place()
            names = list(dict.fromkeys(silent))
            raise LayerNeverCalled(
                f"the network's forward never calls {', '.join(names)}, so adapters there can't act (it may "
                f"use the weights directly); leave them out: exclude={names}"
            )

    def check_in_place(self) -> None:
        """Raise `PlanError` where a layer that was adapted isn't in the network any more: its adapters can't act."""
        self._in_place.check()

    def current(self, site: Site) -> ForwardPass | None:
        """Give the forward to which a call of a site belongs, one that a backward pass runs again among them."""
        if self.running is not None or torch.compiler.is_compiling() or not in_backward():
            return self.running
        return self.passes.again(site)

    def adapt(self, site: Site, module: nn.Module, x: Any, y: Any, alone: bool = True) -> Any:
        """Give a site's adapted output from its input and output; `alone`: no one else has seen the output."""
        running = self.current(site)
        return y if running is None else running.adapt(site, module, x, y, alone)

    def _make_layers(self) -> dict[nn.Module, AdaptedLayer]:
        found = {}
        for site, module in self._places():
            layer = _folded_layer(site, module)
            if layer is not None:
                found[module] = AdaptedLayer(self, site, layer)
        return found

    def _make_attentions(self) -> dict[nn.Module, AdaptedAttention | AdaptedForward | AdaptedWhole]:
        parts: dict[nn.Module, dict[str, Site]] = {}
        for site, module in self._places():
            if site.layer.part:
                parts.setdefault(module, {})[site.layer.part] = site
        return {module: self._make_forward(module, sites) for module, sites in parts.items()}

    def _make_forward(
        self, module: nn.Module, sites: Mapping[str, Site]
    ) -> AdaptedAttention | AdaptedForward | AdaptedWhole:
        if any(site.layer.whole for site in sites.values()):
            from subsense.injection.whole_layers import AdaptedWhole

            return AdaptedWhole(self, module, list(sites.values()))
        parts = AttentionParts(self, sites, module)
        if any(type(module) is declaration.cls for declaration in self.plan.declared):
            return AdaptedForward(module, [site.layer for site in sites.values()], parts)
        assert isinstance(module, nn.MultiheadAttention)
        return AdaptedAttention(module, parts)

    def _make_hooks(self) -> list[tuple[nn.Module, SiteHook]]:
        hooks = [
            (module, SiteHook(self, site))
            for site, module in self._places()
            if not (site.layer.part or site.layer.seen)
        ]
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

    def __call__(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
        """Give the adapted output, unless the layer's forward has done so."""
        if len(rest) < 2:  # no keywords: torch's fusing has moved the hook to a layer of its own
            self.injection.check_in_place()
        kwargs, output = rest
        if self.site is None:
            return output
        running = self.injection.current(self.site)
        if running is not None and running.done is module:
            running.done = None
            return output
        if self.site.layer.found:
            check_alone(self.site, args, kwargs)
        return self.injection.adapt(self.site, module, _input(args, kwargs), output, is_first_hook(module, self))


class InnerHook:
    """Be the hook on a module inside a layer which is handed what the layer gives, before something follows inside."""

    def __init__(self, injection: Injection, site: Site, layer: nn.Module) -> None:
        self.injection, self.site, self.layer = injection, site, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give what the module is to be handed."""
        (y,) = args
        return (self.injection.adapt(self.site, self.layer, y, y, alone=False),)


class AdaptedLayer:
    """Be the forward of a layer which takes its adapters into its own parameters where it can.

    Where rows differ, or a graph is made, it is the layer's own, and its output is adapted.
    """

    def __init__(self, injection: Injection, site: Site, layer: FoldedLayer) -> None:
        self.injection, self.site, self.layer = injection, site, layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        module, running = self.layer.module, self.injection.current(self.site)
        if running is None:
            return type(module).forward(module, *args, **kwargs)
        x = _input(args, kwargs)
        output = running.fold_in(self.site, self.layer, x)
        if output is None:
            output = running.adapt(self.site, module, x, type(module).forward(module, *args, **kwargs))
        running.done = module
        return output


def _checkpointed(injection: Injection) -> dict[nn.Module, Any]:
    from subsense.injection.checkpointing import CheckpointedBlock, blocks_of

    adapted = [module for _, module in injection._places()]
    return {block: CheckpointedBlock(injection, block) for block in blocks_of(injection.network, adapted)}


def _inner_hook(injection: Injection, site: Site, module: nn.Module) -> tuple[nn.Module, InnerHook]:
    return module.get_submodule(site.layer.seen), InnerHook(injection, site, module)


def _in_place(network: nn.Module, paths: list[str]) -> InPlace:
    from subsense.injection.in_place import InPlace

    return InPlace(network, paths)


def _passes() -> Passes:
    from subsense.injection.recomputing import Passes

    return Passes()


def _input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()))


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
    if any(isinstance(hook, SiteHook | InnerHook) for module in network.modules() for hook in all_hooks(module)):
        raise PlanError(f"{type(network).__name__} is adapted already; call detach() on that model first")
