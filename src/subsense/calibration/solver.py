"""Solve the sites one after the other, in the order of the forward, each with those before it already calibrated.

Where all rows fit into one batch and a site is called once, one forward solves all sites on its way. Where rows come in
chunks, or a site is called several times, its sums are gathered first, by forwards that end there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from subsense.adapters.base import Adapter
from subsense.adapters.common import common_weights, is_common
from subsense.adapters.regression import Moments, Problem
from subsense.calibration.samples import Sampler
from subsense.calibration.visits import Capture, Enough, Goals, Later, Place, Runs, Visit, goal_of
from subsense.injection.site import Site
from subsense.modalities.inputs import Inputs, read
from subsense.modalities.loaders import num_rows
from subsense.model.robust import RobustModel

Watch = Callable[[Site, int, Tensor, Tensor], None]
"""(site, index of the set, own output, goal), each (position, channel); told what a site's problem was."""


@dataclass(frozen=True)
class Settings:
    """Hold how sites are solved; see `subsense.calibrate`."""

    ridge: float
    rank: int | None
    sampler: Sampler


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
        if self.robust.call.needs_groups:
            return False
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
            if not any(sums):  # the network doesn't call it where these are missing
                self.rest(site)
                return
            empty = next(some[0] for some in sums if some).empty()
            self.write(site, index, module, [reduce(add, some, empty) for some in sums])
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
        takers = [other for other in before + after if is_common(other) is is_common(adapter)]
        takers = [other for other in takers if other.added in self.robust.banks.of(site, other)]
        problem = Problem(
            layer=site.layer,
            module=module,
            moments=moments,
            weights=self._weights(adapter).to(moments[0].z.device),
            ridge=self.settings.ridge,
            shifts=bool(takers) or site.key in self.robust.plan.merged,  # the norm behind it takes the shift
            rows={name: bank.detach()[self._used(adapter)] for name, bank in banks.items()},
            rank=self.settings.rank,
        )
        solution = adapter.solve(problem)
        self._put(adapter, banks, solution.rows)
        if solution.idle:
            self.idle.add((site.key, adapter.name))
        if solution.shift is not None and takers and takers[0] in before:
            name = str(takers[0].added)
            bank = self.robust.banks.of(site, takers[0])
            shift = solution.shift.unflatten(1, site.layer.features).to(bank[name])
            self._put(takers[0], bank, {name: bank[name].detach()[self._used(takers[0])] + shift})

    def _used(self, adapter: Adapter) -> list[int]:
        return [0] if is_common(adapter) else self.used

    def _weights(self, adapter: Adapter) -> Tensor:
        """Give how much each set uses of a method's rows: (set, row)."""
        return common_weights(self.weights) if is_common(adapter) else self.weights

    def _put(self, adapter: Adapter, banks: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, values in rows.items():
                banks[name][self._used(adapter)] = values.to(banks[name])

    def busy(self, site: Site) -> list[Adapter]:
        """Give the methods of a solved site that do something."""
        return [adapter for adapter in site.adapters if (site.key, adapter.name) not in self.idle]

    def rest(self, site: Site) -> None:
        """Leave a site at the identity: nothing is lost there."""
        for adapter in site.adapters:
            banks = self.robust.banks.of(site, adapter)
            rows = {name: bank.detach()[self._used(adapter)] for name, bank in banks.items()}
            self._put(adapter, banks, adapter.rest(rows))
        self.solved.add(site.key)
        self.resting.add(site.key)


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
