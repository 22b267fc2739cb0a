"""Network + method -> Plan: which sites get which adapter, made and printed before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import nn

from subsense.adapters import Adapter, Method, parse_method
from subsense.adapters.common import Common, inner
from subsense.adapters.embedding import Embedding
from subsense.adapters.layers.declare import Declaration
from subsense.adapters.layers.describe import describe
from subsense.adapters.layers.kinds import TABLE
from subsense.adapters.layers.layer import Layer
from subsense.errors import PlanError, UnmatchedPattern, UnsupportedLayer, closest
from subsense.injection.merging import merge_affine
from subsense.injection.site import Site
from subsense.injection.wrapped import check_wrappers
from subsense.support.tables import format_share, format_table, listed


@dataclass(frozen=True)
class Plan:
    """Hold the sites of a network for a method, and what is out of reach. Printing it gives a table.

    Attributes:
        sites: in registration order.
        out_of_reach: parameter name -> number of elements, for parameters that no site acts on.
        network_parameters: number of parameters of the network, tied ones counted once.
        adapters: the methods.
        declared: the user's own layer classes.
        num_rows: bank rows of the model that the plan was made for; None: of no model, so it isn't known.
        reached: combination -> the sites that the network calls for it, filled as combinations are called; only where
            a missing modality is left out (``fill="omit"``), otherwise all sites are called for all of them.
        merged: convolutions that are scaled and shifted at the BatchNorm behind them, which is the same.
        notes: what else is to be known of that model, such as what stands in for masks.
        uncovered: of those out of reach, embeddings aside, the parameters of no layer that adapters could serve.
    """

    sites: tuple[Site, ...]
    out_of_reach: Mapping[str, int]
    network_parameters: int
    adapters: tuple[Adapter, ...]
    declared: tuple[Declaration, ...] = ()
    num_rows: int | None = None
    reached: dict[str, frozenset[str]] = field(default_factory=dict, compare=False)
    merged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    uncovered: Mapping[str, int] = field(default_factory=dict)

    @property
    def parameters_per_row(self) -> int:
        """Count the parameters of one bank row; what all incomplete combinations share is not among them."""
        return sum(site.num_parameters for site in self.sites)

    @property
    def common_parameters(self) -> int:
        """Count the parameters of the one row that all incomplete combinations share; see `subsense.Common`."""
        return sum(site.num_common for site in self.sites)

    @property
    def num_parameters(self) -> int:
        """Count the parameters of all rows, which is what a model trains and keeps; of one where there is no model."""
        return (self.num_rows or 1) * self.parameters_per_row + self.common_parameters

    @property
    def share(self) -> float:
        """Give the parameters of one bank row as a fraction of the network's."""
        return self.parameters_per_row / max(1, self.network_parameters)

    def __str__(self) -> str:
        rows = [
            [
                site.key,
                site.layer.class_name,
                site.label,
                f"{site.layer.channels:,}",
                f"{site.num_parameters + site.num_common:,}",
            ]
            for site in self.sites
        ]
        table = format_table(["module", "class", "adapter", "channels", "parameters"], rows, align="lllrr")
        total = (
            f"{len(self.sites)} sites, {self.parameters_per_row:,} parameters per bank row, "
            f"{format_share(self.share)} of the network's {self.network_parameters:,}"
        )
        return "\n".join(
            [table, "", total, *self._rows(), *self._merged(), *self._reach(), *self.notes, *self._silent()]
        )

    @property
    def wholes(self) -> dict[str, str]:
        """Give the layers that take one set for all rows of a batch, see `injection.whole_layers`: path -> class."""
        return {site.layer.path: site.layer.class_name for site in self.sites if site.layer.whole}

    def silent(self) -> dict[str, tuple[str, ...]]:
        """Give the sites that the network doesn't call, by combination: adapters there have no effect for it."""
        keys = [site.key for site in self.sites]
        return {
            name: silent
            for name, called in self.reached.items()
            if (silent := tuple(key for key in keys if key not in called))
        }

    def _silent(self) -> list[str]:
        return [
            f"{name} calls {len(self.sites) - len(silent)} of {len(self.sites)} sites, not {listed(silent)}"
            for name, silent in self.silent().items()
        ]

    def _rows(self) -> list[str]:
        """Say what all bank rows together are, which is what a model trains and keeps."""
        common = self.common_parameters
        lines = [f"one row for all incomplete combinations: {common:,} parameters"] if common else []
        if self.num_rows is None:
            return lines
        share = format_share(self.num_parameters / max(1, self.network_parameters))
        return [*lines, f"{self.num_rows} bank rows: {self.num_parameters:,} parameters in all, {share}"]

    def _merged(self) -> list[str]:
        if not self.merged:
            return []
        return [f"scaled and shifted at the BatchNorm behind them, which is the same: {', '.join(self.merged)}"]

    def _reach(self) -> list[str]:
        if not self.out_of_reach:
            return ["every parameter of the network is within reach of a site"]
        names = [f"  {name} ({count:,})" for name, count in self.out_of_reach.items()]
        return [f"out of reach ({sum(self.out_of_reach.values()):,} parameters):", *names]


def plan(
    network: nn.Module,
    method: Method = "ssf",
    *,
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
    layers: Sequence[Declaration] = (),
    merge: bool = True,
) -> Plan:
    """Find the sites of a network without touching it.

    Args:
        network: any `nn.Module`.
        method: ``"ssf"``, ``"scale"``, ``"shift"``, ``"bitfit"``, ``"norm"``, ``"lora"``, ``"embedding"``, an object
            such as ``LoRA(rank=2)``, or a list of those.
        include: patterns of module paths (``fnmatch``: ``"encoder.*"``); a layer must match one.
        exclude: patterns of module paths; a layer must match none.
        layers: the user's own layer classes.
        merge: leave out at a convolution what the BatchNorm behind it in an `nn.Sequential` does as well: a scale and
            shift of each channel. Sets that were saved by 0.1.0 have both.

    Raises:
        UnmatchedPattern: a pattern that matches no layer.
        UnsupportedLayer: a layer that a method can't serve right, or one named in full that it doesn't serve.
        PlanError: an unknown method; a network in which nothing is a site, or that is wrapped (compiled, distributed).

    >>> print(plan(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), include=["0"]))
    module  class   adapter  channels  parameters
    ------  ------  -------  --------  ----------
    0       Linear  ssf             3           6
    <BLANKLINE>
    1 sites, 6 parameters per bank row, 46.15% of the network's 13
    out of reach (4 parameters):
      2.weight (3)
      2.bias (1)
    """
    from subsense.injection.uncovered import uncovered

    adapters = parse_method(method)
    choice = _Choice(network, _Patterns.parse("include", include), _Patterns.parse("exclude", exclude))
    check_wrappers(network)
    found = list(_sites(network, adapters, choice, layers))
    sites = _tie(found)
    choice.check(adapters)
    _check_common(adapters, sites)
    if not sites:
        raise PlanError(
            f"no layer of {type(network).__name__} is a site for {', '.join(a.name for a in adapters)}; "
            "declare the network's own layer classes: layers=[LayerClass(...)]"
        )
    parameters = dict(network.named_parameters())
    num_parameters = sum(parameter.numel() for parameter in parameters.values())
    sites, merged = merge_affine(network, sites) if merge else (sites, ())
    lost = uncovered(network, choice.covered)
    return Plan(
        sites,
        _out_of_reach(parameters, found),
        num_parameters,
        adapters,
        tuple(layers),
        merged=merged,
        uncovered=lost,
    )


def _check_common(adapters: Sequence[Adapter], sites: Sequence[Site]) -> None:
    """Raise for a pattern of `Common` at which it finds no site."""
    for adapter in adapters:
        if isinstance(adapter, Common):
            paths = {path for site in sites if adapter in site.adapters for path in site.modules}
            for pattern in _Patterns.parse("include", adapter.include).unmatched(paths):
                raise UnmatchedPattern(
                    f"Common: include: pattern {pattern!r} matches no site of {adapter.adapter.name}."
                    f"{closest(pattern, [path for site in sites for path in site.modules])}"
                )


@dataclass(frozen=True)
class _Patterns:
    """Hold patterns of module paths; those without a wildcard are looked up, not compared with every path."""

    argument: str
    texts: tuple[str, ...]
    names: frozenset[str]
    wild: tuple[str, ...]

    @classmethod
    def parse(cls, argument: str, patterns: Iterable[str]) -> _Patterns:
        if isinstance(patterns, str):
            raise PlanError(
                f"{argument}: expected a list of patterns, but found the string {patterns!r}; write [{patterns!r}]"
            )
        texts = tuple(patterns)
        wild = tuple(text for text in texts if not _WILDCARDS.isdisjoint(text))
        return cls(argument, texts, frozenset(texts) - frozenset(wild), wild)

    def match(self, paths: Iterable[str]) -> bool:
        """Say whether one of the paths matches one of the patterns."""
        return any(path in self.names or any(fnmatchcase(path, pattern) for pattern in self.wild) for path in paths)

    def unmatched(self, paths: Set[str]) -> Iterator[str]:
        """Give the patterns that match none of the paths, in their order; ``*`` always matches."""
        for pattern in self.texts:
            if pattern in self.names:
                matches = pattern in paths
            else:
                matches = pattern == "*" or any(fnmatchcase(path, pattern) for path in paths)
            if not matches:
                yield pattern


_WILDCARDS = frozenset("*?[")


class _Choice:
    """Decide which module paths are wanted, and remember which patterns had an effect."""

    def __init__(self, network: nn.Module, include: _Patterns, exclude: _Patterns) -> None:
        self.include, self.exclude = include, exclude
        self.paths: dict[int, list[str]] = {}
        for path, module in network.named_modules(remove_duplicate=False):
            self.paths.setdefault(id(module), []).append(path)
        self.layers: set[str] = set()
        self.covered: set[int] = set()
        self.served: set[str] = set()

    def wants(self, module: nn.Module) -> bool:
        """Say whether a layer is included and not excluded, by any of its paths."""
        paths = self.paths[id(module)]
        self.layers.update(paths)
        return self.include.match(paths) and not self.exclude.match(paths)

    def cover(self, module: nn.Module, layer: Layer | UnsupportedLayer) -> None:
        """Note whose parameters an adapter could act on; of a layer that can't be served, those inside it too."""
        if isinstance(layer, UnsupportedLayer):
            self.covered.update(id(one) for one in module.parameters())
            return
        slots = (layer.weight, layer.bias) if layer.bias else (layer.weight,)
        self.covered.update(id(slot.parameter(module)) for slot in slots)
        self.covered.update(id(module.get_parameter(name)) for name in layer.computed)

    def check(self, adapters: Sequence[Adapter]) -> None:
        """Raise for a pattern that matches no layer, and for a layer named in full that no method serves."""
        names = ", ".join(adapter.name for adapter in adapters)
        for patterns in (self.include, self.exclude):
            for pattern in patterns.unmatched(self.layers):
                raise UnmatchedPattern(
                    f"{patterns.argument}: pattern {pattern!r} matches no layer that an adapter could serve."
                    f"{closest(pattern, sorted(self.layers))}"
                )
        unserved = self.layers - self.served
        for pattern in self.include.texts:
            if pattern in unserved and not self.exclude.match([pattern]):
                raise UnsupportedLayer(
                    f"include: {pattern} is no site for {names}; leave it out, or choose another method"
                )


def _sites(
    network: nn.Module, adapters: Sequence[Adapter], choice: _Choice, declared: Sequence[Declaration]
) -> Iterator[tuple[nn.Module, Site]]:
    for module, layer in describe(network, declared):
        choice.cover(module, layer)
        if not choice.wants(module):
            continue
        if isinstance(layer, UnsupportedLayer):
            raise layer
        shapes = {adapter: adapter.parameters(layer) for adapter in adapters if _serves(adapter, layer, module)}
        if shapes:
            choice.served.update(choice.paths[id(module)])
            yield module, Site(layer, (layer.path,), shapes)


def _serves(adapter: Adapter, layer: Layer, module: nn.Module) -> bool:
    """Say whether an adapter acts at a layer; at tables only one made for them, for their outputs are their weights."""
    return (layer.kind != TABLE or isinstance(inner(adapter), Embedding)) and adapter.serves(layer, module)


def _tie(found: Iterable[tuple[nn.Module, Site]]) -> tuple[Site, ...]:
    sites: dict[tuple[int, str], Site] = {}
    for module, site in found:
        weight = site.layer.weight.parameter(module)
        key = (id(module) if weight is None else id(weight), site.layer.part)
        first = sites.setdefault(key, site)
        if first is not site:
            _check_tied(first, site)
            sites[key] = replace(first, modules=(*first.modules, *site.modules))
    return tuple(sites.values())


def _check_tied(first: Site, other: Site) -> None:
    same = ("kind", "features", "axis", "groups", "out_axis", "weight")
    if first.adapters != other.adapters or any(getattr(first.layer, a) != getattr(other.layer, a) for a in same):
        raise UnsupportedLayer(
            f"{other.key} ({other.layer.class_name}) shares its weight with {first.key} "
            f"({first.layer.class_name}), but isn't the same kind of layer, so they can't be one site; "
            f"exclude=[{other.layer.path!r}]"
        )


def _out_of_reach(parameters: Mapping[str, nn.Parameter], found: Iterable[tuple[nn.Module, Site]]) -> dict[str, int]:
    reached = {
        id(slot.parameter(module)) for module, site in found for slot in (site.layer.weight, site.layer.bias) if slot
    } | {id(module.get_parameter(name)) for module, site in found for name in site.layer.computed}
    return {name: parameter.numel() for name, parameter in parameters.items() if id(parameter) not in reached}
