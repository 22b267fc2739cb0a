"""Solve the sites one after the other, in the order of the forward, each with those before it already calibrated.

Where all rows fit into one batch and a site is called once, one forward solves all sites on its way. Where rows come in
chunks, or a site is called several times, its sums are gathered first, by forwards that end there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters.base import Adapter
from subsense.adapters.channels import flat_channels
from subsense.adapters.regression import Moments, Problem
from subsense.calibration.samples import Sampler
from subsense.errors import CalibrationError
from subsense.injection.planning import Site
from subsense.modalities.inputs import Inputs, read
from subsense.modalities.loaders import num_rows
from subsense.model.robust import RobustModel
from subsense.routing.placement import Placement
from subsense.routing.route import RouteMix

Goals = dict[tuple[str, int], Tensor]
"""(site, call) -> what it gives with everything present, (position, channel)."""
Watch = Callable[[Site, int, Tensor, Tensor], None]
"""(site, index of the set, own output, goal), each (position, channel); told what a site's problem was."""


@dataclass(frozen=True)
class Settings:
    """Hold how sites are solved; see `subsense.calibrate`."""

    ridge: float
    rank: int | None
    sampler: Sampler


class Enough(Exception):
    """End a forward at a site beyond which it isn't needed."""


@dataclass
class Capture:
    """Keep what sites give with everything present.

    Attributes:
        only: the site to keep, all of whose calls are awaited; None: all.
    """

    sampler: Sampler
    rows: int
    chunk: int = 0
    only: tuple[str, int] | None = None
    goals: Goals = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def __call__(self, site: Site, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        call = self.calls[site.key]
        self.calls[site.key] += 1
        if self.only is None or site.key == self.only[0]:
            flat = flat_channels(y, site.layer)
            self.goals[site.key, call] = self.sampler.rows(site.layer, flat, self.rows, call, self.chunk)
        if self.only == (site.key, call + 1):
            raise Enough
        return y


class Solver:
    """Calibrate the bank rows of some sets: one combination's, or all that share rows.

    Args:
        robust: the model; its banks are written.
        sets: the combinations, as bit masks.
        chunks: rows with everything present, each chunk as one batch.
        settings: how.
        calls: how often each site is called in a forward.
        goals: what sites give with everything present, for the only chunk; None: rows come in chunks.
        watch: is told each site's problem.
    """

    def __init__(
        self,
        robust: RobustModel,
        sets: Sequence[int],
        chunks: Sequence[Inputs],
        settings: Settings,
        calls: Mapping[str, int],
        goals: Goals | None,
        watch: Watch,
    ) -> None:
        self.robust, self.sets, self.chunks, self.settings = robust, tuple(sets), chunks, settings
        self.calls, self.goals, self.watch = calls, goals, watch
        self.solved: set[str] = set()
        self.resting: set[str] = set()
        self.idle: set[tuple[str, str]] = set()
        combinations = [robust.modalities.from_code(code) for code in self.sets]
        self.used = sorted(robust.router.rows(combinations))
        weights = [robust.router.uniform(code, torch.device("cpu")).weights[0] for code in self.sets]
        self.weights = torch.stack(weights)[:, self.used]

    def run(self) -> None:
        """Solve every site."""
        together = self.goals is not None and (len(self.sets) == 1 or self._is_located())
        if together:
            while not self._forward():
                pass
        else:
            for site in self._order():
                self.gather(site)
        for site in self.robust.plan.sites:
            if site.key not in self.solved:  # one that the network doesn't call where this is missing
                self.rest(site)

    def _order(self) -> list[Site]:
        sites = {site.key: site for site in self.robust.plan.sites}
        return [sites[key] for key in self.calls]

    def _is_located(self) -> bool:
        """Say whether it is known where the rows of a batch are at each site, so that all sets run as one batch."""
        if self.robust.located is None:
            self.robust.locate(self.chunks[0])
        located = self.robust.located
        return located is not None and not located.unknown([site.key for site in self.robust.plan.sites])

    def _forward(self) -> bool:
        """Run all rows of all sets and solve on the way; False where a site had to be gathered first."""
        visit = Together(self)
        try:
            self.robust.visit(visit.runs.batch, visit)
        except Later as later:
            self.gather(later.site)
            return False
        return True

    def gather(self, site: Site) -> None:
        """Solve a site by forwards that end there, one for each chunk and set."""
        module = self.robust.network.get_submodule(site.modules[0])
        for index in range(len(site.adapters)):
            sums: list[list[Moments]] = [[] for _ in self.sets]
            for chunk, inputs in enumerate(self.chunks):
                goals = self._goals_at(site, chunk, inputs)
                for number, code in enumerate(self.sets):
                    runs = Runs(self.robust, inputs, (code,))
                    visit = Gather(self, runs, chunk, site, index, goals)
                    with suppress(Enough):
                        self.robust.visit(runs.batch, visit)
                    sums[number] += visit.found
                    for own, goal in visit.outputs if index == 0 else ():
                        self.watch(site, number, own, goal)
            self.write(site, index, module, [reduce(add, some) for some in sums])
        self.solved.add(site.key)

    def _goals_at(self, site: Site, number: int, inputs: Inputs) -> Goals:
        if self.goals is not None:
            return self.goals
        sampler, only = self.settings.sampler, (site.key, self.calls[site.key])
        capture = Capture(sampler, num_rows(inputs), number, only)
        with suppress(Enough):
            self.robust.visit(read(self.robust.modalities, inputs), capture)
        return capture.goals

    def write(self, site: Site, index: int, module: nn.Module, moments: Sequence[Moments]) -> None:
        """Solve one method at one site, and put the rows into its banks."""
        adapters = list(site.adapters)
        adapter, before, after = adapters[index], adapters[:index][-1:], adapters[index + 1 :][:1]
        banks = self.robust.banks.of(site, adapter)
        takers = [other for other in before + after if other.added in self.robust.banks.of(site, other)]
        problem = Problem(
            layer=site.layer,
            module=module,
            moments=moments,
            weights=self.weights.to(moments[0].z.device),
            ridge=self.settings.ridge,
            shifts=bool(takers),
            rows={name: bank.detach()[self.used] for name, bank in banks.items()},
            rank=self.settings.rank,
        )
        solution = adapter.solve(problem)
        self._put(banks, solution.rows)
        if solution.idle:
            self.idle.add((site.key, adapter.name))
        if solution.shift is not None and takers and takers[0] in before:
            name = str(takers[0].added)
            bank = self.robust.banks.of(site, takers[0])
            shift = solution.shift.unflatten(1, site.layer.features).to(bank[name])
            self._put(bank, {name: bank[name].detach()[self.used] + shift})

    def _put(self, banks: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, values in rows.items():
                banks[name][self.used] = values.to(banks[name])

    def busy(self, site: Site) -> list[Adapter]:
        """Give the methods of a solved site that do something."""
        return [adapter for adapter in site.adapters if (site.key, adapter.name) not in self.idle]

    def rest(self, site: Site) -> None:
        """Leave a site at the identity: nothing is lost there."""
        for adapter in site.adapters:
            banks = self.robust.banks.of(site, adapter)
            self._put(banks, adapter.rest({name: bank.detach()[self.used] for name, bank in banks.items()}))
        self.solved.add(site.key)
        self.resting.add(site.key)


class Runs:
    """Run the rows of a chunk for some sets as one batch: all rows of the first set, then all of the second, ..."""

    def __init__(self, robust: RobustModel, inputs: Inputs, sets: Sequence[int]) -> None:
        self.robust, self.sets, self.rows = robust, tuple(sets), num_rows(inputs)
        present = torch.cat([
            robust.modalities.present(robust.modalities.from_code(code)).expand(self.rows, -1) for code in sets
        ])  # fmt: skip
        self.batch = read(robust.modalities, _repeated(inputs, len(sets)), present)
        device = self.batch.device
        if len(sets) == 1:
            self.route = robust.router.uniform(sets[0], device)
        else:
            codes = [code for code in sets for _ in range(self.rows)]
            placements: Any = robust.located.placements if robust.located else {}
            self.route = robust.router.mixed(codes, device, placements)

    def act(
        self, site: Site, module: nn.Module, x: Tensor, y: Tensor, call: int, adapters: Sequence[Adapter]
    ) -> Tensor:
        """Give a site's output adapted by the first of its methods."""
        mix = RouteMix(self.route, self._place(site, call))
        for adapter in adapters:
            y = adapter.apply(site.layer, module, self.robust.banks.of(site, adapter), mix, x, y)
        return y

    def split(self, site: Site, call: int, values: Tensor) -> Sequence[Tensor]:
        """Give the part of each set of what is shaped as a site's output."""
        place, count = self._place(site, call), len(self.sets)
        if place is None:
            return [values]
        if not place.inner:
            return values.chunk(count, place.axis)
        parts = values.unflatten(place.axis, (-1, count, self.rows))
        return [part.flatten(place.axis, place.axis + 1) for part in parts.unbind(place.axis + 1)]

    def _place(self, site: Site, call: int) -> Placement | None:
        return None if self.route.uniform else self.route.placements[site.key][call]


class Later(Exception):
    """End a forward at a site that has to be gathered first."""

    def __init__(self, site: Site) -> None:
        self.site = site


class Visit:
    """Be what the sites of one forward share.

    Args:
        runs: what runs.
        sampler, chunk: which positions are looked at.
    """

    def __init__(self, runs: Runs, sampler: Sampler, chunk: int = 0) -> None:
        self.runs, self.sampler, self.chunk = runs, sampler, chunk
        self.calls: Counter[str] = Counter()

    def next(self, site: Site) -> int:
        """Begin a call of a site, and give its number."""
        call = self.calls[site.key]
        self.calls[site.key] += 1
        return call

    def own(self, site: Site, y: Tensor, call: int) -> list[Tensor]:
        """Give a site's output, (position, channel) for each set."""
        return self._parts(site, flat_channels(y, site.layer), call)

    def moments(self, place: Place, adapter: Adapter, own: Sequence[Tensor], y: Tensor, goal: Tensor) -> list[Moments]:
        """Add up one method's problem for each set, from the site's own output and that which the method is given."""
        z, groups = adapter.basis(place.site.layer, place.module, place.x, place.own, y)
        given = own if y is place.own else self.own(place.site, y, place.call)
        known = {id(place.own): own, id(y): given}
        features = known[id(z)] if id(z) in known else self._parts(place.site, z, place.call)
        return [Moments.of(some, goal - other, groups) for some, other in zip(features, given, strict=True)]

    def act(self, place: Place, adapters: Sequence[Adapter]) -> Tensor:
        """Give the output adapted by some of the site's methods."""
        return self.runs.act(place.site, place.module, place.x, place.own, place.call, adapters)

    def _parts(self, site: Site, values: Tensor, call: int) -> list[Tensor]:
        parts = self.runs.split(site, call, values)
        return [self.sampler.rows(site.layer, one, self.runs.rows, call, self.chunk) for one in parts]


@dataclass(frozen=True)
class Place:
    """Hold one call of a site: its layer, the input, the layer's own output, and which call of the forward it is."""

    site: Site
    module: nn.Module
    x: Tensor
    own: Tensor
    call: int


def goal_of(goals: Goals, place: Place, own: Sequence[Tensor]) -> Tensor:
    """Give what a call of a site is to come near to; raise `CalibrationError` where there is no such thing."""
    goal = goals.get((place.site.key, place.call))
    if goal is None or any(one.shape != goal.shape for one in own):
        found = "is called more often" if goal is None else f"has {len(own[0])} positions instead of {len(goal)}"
        raise CalibrationError(
            f"{place.site.key} ({place.site.layer.class_name}): it {found} where modalities are missing than with "
            f"everything present, so that its outputs can't be compared; exclude=[{place.site.layer.path!r}]"
        )
    return goal


class Together(Visit):
    """Solve each site when it is reached."""

    def __init__(self, solver: Solver) -> None:
        super().__init__(Runs(solver.robust, solver.chunks[0], solver.sets), solver.settings.sampler)
        self.solver = solver

    def __call__(self, site: Site, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        place, adapters = Place(site, module, x, y, self.next(site)), list(site.adapters)
        if site.key not in self.solver.solved:
            if self.solver.calls[site.key] > 1:
                raise Later(site)
            self._solve(place, adapters)
        return y if site.key in self.solver.resting else self.act(place, self.solver.busy(site))

    def _solve(self, place: Place, adapters: list[Adapter]) -> None:
        solver, site = self.solver, place.site
        assert solver.goals is not None
        own = self.own(site, place.own, 0)
        goal = goal_of(solver.goals, place, own)
        if all(torch.equal(one, goal) for one in own):
            solver.rest(site)
            return
        for index, adapter in enumerate(adapters):
            moments = self.moments(place, adapter, own, self.act(place, adapters[:index]), goal)
            solver.write(site, index, place.module, moments)
        for number, one in enumerate(own):
            solver.watch(site, number, one, goal)
        solver.solved.add(site.key)


class Gather(Visit):
    """Gather the sums of one method of a site, from one chunk of one set."""

    def __init__(self, solver: Solver, runs: Runs, chunk: int, site: Site, index: int, goals: Goals) -> None:
        super().__init__(runs, solver.settings.sampler, chunk)
        self.solver, self.site, self.index, self.goals = solver, site, index, goals
        self.found: list[Moments] = []
        self.outputs: list[tuple[Tensor, Tensor]] = []

    def __call__(self, site: Site, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        place, adapters = Place(site, module, x, y, self.next(site)), list(site.adapters)
        if site.key in self.solver.solved - self.solver.resting:
            return self.act(place, self.solver.busy(site))
        if site.key != self.site.key:
            return y
        own, given = self.own(site, y, place.call), self.act(place, adapters[: self.index])
        goal = goal_of(self.goals, place, own)
        self.found += self.moments(place, adapters[self.index], own, given, goal)
        self.outputs.append((own[0], goal))
        if place.call + 1 == self.solver.calls[site.key]:
            raise Enough
        return given


def _repeated(inputs: Any, times: int) -> Any:
    if times == 1:
        return inputs
    if isinstance(inputs, Mapping):
        return {name: _repeated(value, times) for name, value in inputs.items()}
    return inputs.repeat(times, *[1] * (inputs.dim() - 1)) if isinstance(inputs, Tensor) else inputs
