"""One forward through an adapted network: everything that lasts as long as it does, and what acts at a site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters.affine import Recall
from subsense.adapters.autograd import is_bare
from subsense.adapters.base import Adapter, Mix, Route
from subsense.adapters.common import is_common
from subsense.errors import UnsupportedLayer
from subsense.injection.banks import Banks
from subsense.injection.saved_outputs import SavedOutputs, Watched
from subsense.injection.scaled_layer import Scaling
from subsense.injection.scaled_norm import Normalising
from subsense.injection.site import Site
from subsense.support.torch_private import is_saved_by_hooks, loses_gradients, transforms_act, version_of

Observed = dict[str, list[Tensor]]
"""Site -> its outputs, one for each time it was called."""
Visitor = Callable[[Site, nn.Module, Tensor, Tensor], Tensor]
"""(site, its layer, input, the layer's own output) -> what is handed on in its place."""
FoldedLayer = Normalising | Scaling


@dataclass
class ForwardPass:
    """Hold what belongs to one forward.

    Attributes:
        banks: the parameters.
        saved: what is known of the sites' outputs.
        route: how much each row uses of the banks; None: no adapter acts.
        visitor: acts in the place of the adapters.
        observed: gathers what each site gives.
        folds: whether layers may take their adapters in.
        dtype: the banks'.
        busy: whether a site is acting; what it calls itself is left alone.
        done: the layer whose forward has just given an adapted output, so that its hook has nothing to do.
        watched: outputs on which the backward pass may come to depend.
        wholes: the parameters of layers that are adapted as a whole, once they are made.
        replays: whether it is over, and a part of it is run again.
        grads: whether it began with gradients.
    """

    banks: Banks
    saved: SavedOutputs
    route: Route | None = None
    visitor: Visitor | None = None
    observed: Observed | None = None
    folds: bool = False
    dtype: torch.dtype | None = None
    busy: bool = False
    done: nn.Module | None = None
    watched: list[Watched] = field(default_factory=list)
    wholes: dict[nn.Module, Mapping[str, Tensor]] = field(default_factory=dict)
    replays: bool = False
    grads: bool = False

    def adapt(self, site: Site, module: nn.Module, x: Tensor, y: Tensor, alone: bool = True) -> Tensor:
        """Give a site's adapted output from its input and output; `alone`: no one else has seen the output."""
        if self.busy:
            return y
        if self.visitor is not None or self.route is not None:
            self._check_gradients(site)
            _check_tensors(site, x, y)
            _check_features(site, module, y)
            self.busy = True
            try:
                y = self.visitor(site, module, x, y) if self.visitor else self._chain(site, module, x, y, alone)
            finally:
                self.busy = False
        if self.observed is not None:
            self.observed.setdefault(site.key, []).append(y.detach())
        return y

    def _chain(self, site: Site, module: nn.Module, x: Tensor, y: Tensor, alone: bool) -> Tensor:
        assert self.route is not None
        recall = None if torch.compiler.is_compiling() else self.saved.recall(site.layer, module, x, alone)
        mix = self.route.visit(site.key, recall)
        for number, adapter in enumerate(site.adapters):
            if number == 1 and recall is not None:
                mix = mix.recalling(Recall(recall.steady))  # only the first one's y is the layer's output
            y = adapter.apply(site.layer, module, self.banks.of(site, adapter), mix, x, y)
        if recall is not None and recall.layer is None:
            self._watch(site, y)
        return y

    def fold_in(self, site: Site, layer: FoldedLayer, x: Any) -> Tensor | None:
        """Give a site's adapted output in one go; None where that can't be, or costs more."""
        if not self.folds or self.busy or transforms_act():
            return None
        if not isinstance(x, Tensor) or self.dtype is None or not layer.pays(x, self.dtype):
            return None
        if torch.is_grad_enabled() and not is_bare(x):
            return None
        if isinstance(layer, Normalising):  # it gives as many features as it sees
            _check_features(site, layer.module, x)
        assert self.route is not None
        self._check_gradients(site)
        mix = self.route.visit(site.key)
        sets = [(adapter, self._set(site, adapter, mix)) for adapter in site.adapters]
        output = layer(x, sets, self.saved.state(site.key) == "steady")
        if layer.keeps_output:
            self._watch(site, output)
        return output

    def _check_gradients(self, site: Site) -> None:
        """Raise where an adapter would be left without a gradient by a checkpoint."""
        if self.grads and not torch.is_grad_enabled() and loses_gradients():
            raise UnsupportedLayer(
                f"{site.key} ({site.layer.class_name}): the network runs it in a checkpoint with use_reentrant=True "
                "whose inputs ask for no gradient, so its adapters would get none; use use_reentrant=False "
                '(transformers: gradient_checkpointing_enable({"use_reentrant": False}))'
            )

    def whole(self, module: nn.Module, sites: Iterable[Site]) -> Mapping[str, Tensor]:
        """Give the parameters of a layer as the set of this batch makes them, whose rows are alike."""
        if module not in self.wholes:
            self.wholes[module] = dict(found for site in sites for found in self._whole(module, site))
        return self.wholes[module]

    def _whole(self, module: nn.Module, site: Site) -> Iterator[tuple[str, Tensor]]:
        from subsense.adapters.folding import fold_sets

        layer = site.layer
        assert self.route is not None
        assert self.route.uniform  # see `Rows.must_group`
        self._check_gradients(site)
        mix = self.route.visit(site.key)
        weight, bias = layer.weight.read(module), layer.bias.read(module) if layer.bias else None
        assert weight is not None
        folded = fold_sets(layer, [(one, self._set(site, one, mix)) for one in site.adapters], weight, bias)
        for slot, value, own in zip((layer.weight, layer.bias), folded, (weight, bias), strict=True):
            if slot is not None and value is not None and own is not None:
                yield slot.name, value.to(own.dtype)

    def settle(self, outputs: Iterable[Tensor]) -> bool:
        """Learn from the forward, given what it hands out; say whether its graph has lost what the backward needs."""
        return self.saved.learn(self.watched, outputs)

    def _set(self, site: Site, adapter: Adapter, mix: Mix) -> Mapping[str, Tensor]:
        """Give the adapter set of a batch whose rows are alike."""
        banks, mix = self.banks.of(site, adapter), mix.common() if is_common(adapter) else mix
        if adapter in site.by_channel:
            return {name: mix.vector(bank) for name, bank in banks.items()}
        return adapter.merge({name: mix.rows(bank) for name, bank in banks.items()}, mix.weights)

    def _watch(self, site: Site, output: Tensor) -> None:
        """Remember what a site gave, as it is now, where something may come to depend on it."""
        if self.replays or is_saved_by_hooks():  # what is checkpointed must not be kept
            return
        if torch.is_grad_enabled() and self.saved.state(site.key) != "restless":
            self.watched.append((site.key, output, version_of(output)))


def _check_tensors(site: Site, x: Any, y: Any) -> None:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise UnsupportedLayer(
            f"{site.key} ({site.layer.class_name}): expected one tensor in and one out, but found "
            f"{type(x).__name__} and {type(y).__name__}; exclude=[{site.layer.path!r}]"
        )


def _check_features(site: Site, module: nn.Module, y: Tensor) -> None:
    """Raise for a layer that gives other features than it was declared with; norms without weights allow that."""
    layer = site.layer
    end = layer.axis + len(layer.features)
    found = tuple(y.shape[layer.axis : end or None])
    if found == layer.features:
        return
    declares = next((name for name in ("num_features", "num_channels") if hasattr(module, name)), None)
    right = f"build it with {_numbers(found)}"
    if declares and len(found) == 1 and not any(True for _ in module.parameters()):
        right = (
            f"say so before adapting and loading, which changes nothing else: "
            f"network.get_submodule({layer.path!r}).{declares} = {found[0]}"
        )
    raise UnsupportedLayer(
        f"{site.key} ({layer.class_name}): declared with {_numbers(layer.features)} features, but it gives "
        f"{_numbers(found)}; {right}, or leave it out: exclude=[{layer.path!r}]"
    )


def _numbers(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no"
