"""Adapt a network that nobody here wrote, and write down for each promise whether it holds."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

import subsense as ss
from architectures import ROWS, Architecture
from subsense import RobustModel
from subsense.injection.hooks import SiteHook
from subsense.routing.groups import output_tensors

METHOD = ("ssf", "lora")
SEED = 2
RIGHT, NOT_RUN, REFUSED = "✓", "–", "refused"


@dataclass(frozen=True)
class Case:
    """Hold one row of the table: a network, and what is expected of it.

    Attributes:
        architecture: how to make it, call it, and read its scores (row, ...).
        options: further arguments of `adapt`.
        refused: what the error says where the network is refused; empty: it must be right.
        tolerance: of every comparison of numbers that need not be bit-identical, relative to the greatest.
        note: what a reader of the table must know.
        fast: whether it is surveyed in every test run.
        method: what acts.
    """

    architecture: Architecture
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    tolerance: float = 1e-5
    note: str = ""
    fast: bool = False
    method: tuple[str, ...] = METHOD


@dataclass(frozen=True)
class Row:
    """Hold what was found.

    Attributes:
        network: class of the network.
        parameters, sites, reached: of the network; `reached` as a share of the parameters; None where refused before.
        out_of_reach: class of the owning module -> number of parameters that no adapter reaches.
        checks: promise -> "✓", "–" (not run), "refused", or what is wrong.
        error: what it was refused with.
        without_effect: adapters on which nothing that the network gives depends.
    """

    network: str
    parameters: int
    sites: int | None
    reached: float | None
    out_of_reach: Mapping[str, int]
    checks: Mapping[str, str]
    error: str
    without_effect: tuple[str, ...]

    @property
    def wrong(self) -> dict[str, str]:
        """Give the promises that don't hold."""
        return {name: found for name, found in self.checks.items() if found not in (RIGHT, NOT_RUN, REFUSED)}


class Survey:
    """Check one case, promise by promise; each finds a fault in words, or none."""

    def __init__(self, case: Case) -> None:
        self.case, self.architecture = case, case.architecture
        self.network = self.architecture.network()
        self.inputs = self.architecture.inputs()
        self.without_effect: tuple[str, ...] = ()

    @cached_property
    def original(self) -> nn.Module:
        return self.architecture.network()

    @cached_property
    def robust(self) -> RobustModel:
        architecture = self.architecture
        options = {"method": list(self.case.method), "sharing": "additive"} | dict(self.case.options)
        layers = architecture.layers(self.network)
        return ss.adapt(self.network, architecture.modalities, call=architecture.call, layers=layers, **options)

    def given(self, combination: ss.Combination) -> dict[str, Any]:
        return {name: self.inputs[name] for name in combination}

    def scores(self, run: Callable[..., Any], *args: Any) -> Tensor:
        """Run with the same random numbers every time, since some networks draw some in eval mode too."""
        return self.architecture.scores(_seeded(run, *args)).detach()

    def plan(self) -> str:
        """Every parameter is reached by a site, or named as out of reach."""
        planned = self.robust.plan
        owners = {path: self.network.get_submodule(path) for site in planned.sites for path in site.modules}
        within = {id(one) for module in owners.values() for one in module.parameters()}
        lost = [
            name
            for name, parameter in self.network.named_parameters()
            if name not in planned.out_of_reach and id(parameter) not in within
        ]
        return f"neither reached nor named: {lost[:3]}" if lost else ""

    def identity(self) -> str:
        """Nothing missing: the network's own bits. At the start: the network on filled inputs."""
        with torch.no_grad():
            found, expected = (output_tensors(_seeded(run, self.inputs)) for run in (self.robust, self._untouched))
        if not all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)):
            return "with everything present, not the network's own output"
        for combination in self.robust.combinations:
            given = self.given(combination)
            started = self.scores(self.robust.train(), given)
            if fault := self._differs(started, self.scores(self.robust.pretrained, given)):
                return f"does not start at the identity for {combination}: {fault}"
        return ""

    def gradients(self) -> str:
        """Every adapter is called, and given a gradient; none only where the layer's own weight would get none."""
        parameters = stir(self.robust).train().adapter_parameters()
        for combination in self.robust.combinations:
            _backward(_seeded(self.robust, self.given(combination)))
        silent = [name for name, one in parameters.items() if not _moves(one)]
        self.robust.zero_grad()
        if any(parameter.grad is not None for parameter in self.network.parameters()):
            return "the network's own weights get a gradient"
        idle = self._idle() if silent else set()
        self.without_effect = tuple(name for name in silent if name.split(":")[0] in idle)
        lost = sorted(set(silent) - set(self.without_effect))
        return f"no gradient: {', '.join(lost[:3])} ({len(lost)} in all)" if lost else ""

    def _idle(self) -> set[str]:
        """Give the sites whose own weights get no gradient when the network is trained without subsense."""
        network = self.original
        _backward(_seeded(self.robust.filled(network.requires_grad_(True)), self.inputs))
        idle = {
            site.key
            for site in self.robust.plan.sites
            for slot in (site.layer.weight,)
            if (weight := slot.parameter(network.get_submodule(site.layer.path))) is not None and not _moves(weight)
        }
        network.zero_grad()
        return idle

    def modes(self) -> str:
        """Eval equals train."""
        with torch.no_grad():
            for combination in self.robust.combinations:
                given = self.given(combination)
                one, other = (self.scores(model, given) for model in (self.robust.eval(), self.robust.train()))
                if not torch.equal(one, other):
                    return f"eval and train differ for {combination}"
                if float((one - self.scores(self.robust.eval().pretrained, given)).abs().max()) == 0:
                    return f"the adapters have no effect for {combination}"
        return ""

    def rows(self) -> str:
        """A mixed batch equals row by row."""
        robust = self.robust.eval()
        cycle = (*robust.combinations, robust.modalities.complete)
        present = torch.stack([robust.modalities.present(cycle[row % len(cycle)]) for row in range(ROWS)])
        with torch.no_grad():
            together = self.scores(robust, self.inputs, present)
            alone = [self.scores(robust, _row(self.inputs, row), present[row : row + 1]) for row in range(ROWS)]
        return self._differs(together, torch.cat(alone))

    def fold(self) -> str:
        """The folded network gives what the adapted one gives."""
        with torch.no_grad():
            for combination in self.robust.combinations:
                folded, given = ss.fold(self.robust, combination), self.given(combination)
                found, expected = self.scores(self.robust.filled(folded), given), self.scores(self.robust, given)
                if fault := self._differs(found, expected):
                    return f"for {combination}: {fault}"
                made = any(site.layer.computed for site in self.robust.plan.sites)
                if _kinds(folded) != _kinds(self.network) and not made:  # a weight that was made is plain then
                    return "folding changes classes"
        return ""

    def load(self) -> str:
        """Saved and loaded, the same bits."""
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            expected = [self.scores(self.robust.eval(), self.given(one)) for one in self.robust.combinations]
            ss.save(self.robust, folder)
            function = self.architecture.call if callable(self.architecture.call) else None
            self.__dict__["robust"] = ss.load(folder, self.robust.detach(), call=function)
            found = [self.scores(self.robust, self.given(one)) for one in self.robust.combinations]
        same = all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        return "" if same else "the loaded sets give another output"

    def detach(self) -> str:
        """No trace: hooks, classes, weights and output as before."""
        network = self.robust.detach()
        if any(isinstance(hook, SiteHook) for module in network.modules() for hook in module._forward_hooks.values()):
            return "a hook is left"
        if any("forward" in vars(module) for module in network.modules()) or _kinds(network) != _kinds(self.original):
            return "a forward or a class is left"
        state, before = network.state_dict(), self.original.state_dict()
        if list(state) != list(before) or not all(_same(state[name], value) for name, value in before.items()):
            return "the network's state_dict changed"
        with torch.no_grad():
            found, expected = (self.scores(self.robust.filled(one), self.inputs) for one in (network, self.original))
        return "" if torch.equal(found, expected) else "the detached network gives another output"

    def _untouched(self, inputs: Any) -> Any:
        return self.robust.filled(self.original)(inputs)

    def _differs(self, found: Tensor, expected: Tensor) -> str:
        if found.shape != expected.shape:
            return f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
        difference = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
        return "" if difference <= self.case.tolerance else f"differs by {difference:.0e} of the greatest"


CHECKS: Mapping[str, Callable[[Survey], str]] = {
    "plan": Survey.plan,
    "identity": Survey.identity,
    "gradient": Survey.gradients,
    "eval = train": Survey.modes,
    "rows": Survey.rows,
    "fold": Survey.fold,
    "save, load": Survey.load,
    "detach": Survey.detach,
}


def survey(case: Case) -> Row:
    """Check every promise."""
    it = Survey(case)
    checks, errors, summary = dict.fromkeys(CHECKS, NOT_RUN), list[str](), (None, None, {})
    try:
        summary = _summary(it.robust)
    except ss.SubsenseError as refusal:
        errors.append(f"{type(refusal).__name__}: {refusal}")
    for name, check in CHECKS.items() if not errors else ():
        try:
            checks[name] = check(it) or RIGHT
        except ss.SubsenseError as refusal:
            checks[name] = REFUSED
            errors.append(f"{type(refusal).__name__}: {refusal}")
        except Exception as exception:  # a table of what is not right needs every row
            checks[name] = f"{type(exception).__name__}: {str(exception)[:160]}"
    error = "; ".join(dict.fromkeys(errors))
    parameters = sum(0 if is_lazy(one) else one.numel() for one in it.network.parameters())
    return Row(type(it.network).__name__, parameters, *summary, checks, error, it.without_effect)


def stir(robust: RobustModel) -> RobustModel:
    """Move every parameter away from its start, as training would, and call all of them trained."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    robust.mark_trained(robust.combinations)
    return robust.eval()


def _summary(robust: RobustModel) -> tuple[int, float, dict[str, int]]:
    planned, kinds = robust.plan, {}
    for name, count in planned.out_of_reach.items():
        kind = type(robust.network.get_submodule(name.rpartition(".")[0])).__name__
        kinds[kind] = kinds.get(kind, 0) + count
    total = max(1, planned.network_parameters)
    return len(planned.sites), 1 - sum(planned.out_of_reach.values()) / total, kinds


def _backward(output: Any) -> None:
    """Give everything that an output holds a gradient."""
    outputs = [one.float() for one in output_tensors(output) if one.requires_grad]
    weights = [torch.linspace(1, 2, one.numel()).view_as(one) for one in outputs]
    torch.stack([(one * weight).sum() for one, weight in zip(outputs, weights, strict=True)]).sum().backward()


def _moves(parameter: Tensor) -> bool:
    grad = parameter.grad
    return grad is not None and bool(grad.isfinite().all()) and bool(grad.any())


def _seeded(run: Callable[..., Any], *args: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return run(*args)


def _row(inputs: Any, row: int) -> Any:
    return tree_map(lambda tensor: tensor[row : row + 1], inputs)


def _kinds(network: nn.Module) -> list[str]:
    """Name the classes; by name, since torch makes one for each copy of a parametrized or traced module."""
    return [f"{type(module).__module__}.{type(module).__qualname__}" for module in network.modules()]


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(copy.deepcopy(one) == other)
