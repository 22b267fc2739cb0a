"""What a forward does at each site while sets are solved: several sets run as one batch, each on its own rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters.base import Adapter
from subsense.adapters.channels import flat_channels
from subsense.adapters.regression import Moments
from subsense.calibration.samples import Sampler
from subsense.errors import CalibrationError
from subsense.injection.site import Site
from subsense.modalities.inputs import Inputs, read
from subsense.modalities.loaders import num_rows
from subsense.model.robust import RobustModel
from subsense.routing.placement import Placement
from subsense.routing.route import RouteMix

Goals = dict[tuple[str, int], Tensor]
"""(site, call) -> what it gives with everything present, (position, channel)."""


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


def _repeated(inputs: Any, times: int) -> Any:
    if times == 1:
        return inputs
    if isinstance(inputs, Mapping):
        return {name: _repeated(value, times) for name, value in inputs.items()}
    return inputs.repeat(times, *[1] * (inputs.dim() - 1)) if isinstance(inputs, Tensor) else inputs
