"""What each row of one batch uses of every bank, and how a layer reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from subsense.adapters.affine import Recall
from subsense.errors import InputError
from subsense.routing.choice import Choice
from subsense.routing.placement import NotLocated, Placement, _shaped


@dataclass
class Route:
    """Hold what each row of one batch uses of every bank.

    Attributes:
        choice: how much of each bank row each batch row uses.
        uniform: whether all rows are alike.
        placements: site -> where its outputs have the batch, one for each time it is called.
        calls: site -> how often it has been called in this forward.
        picked: id of a bank -> what is used of it, as far as that is known already.
        replays: whether the forward is over, and a part of it is run again: which call of a site that is isn't known.
    """

    choice: Choice
    uniform: bool
    placements: Mapping[str, Sequence[Placement]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    picked: Mapping[int, Tensor] = field(default_factory=dict)
    replays: bool = False

    @property
    def weights(self) -> Tensor:
        """Give how much of each bank row each batch row uses: (batch, bank row), (1, bank row) where they are alike."""
        return self.choice.weights

    def pick(self, banks: Sequence[Tensor]) -> None:
        """Pick what is used of these banks, of all at once."""
        self.picked = dict(zip(map(id, banks), self.choice.of_all(banks), strict=True))

    def again(self) -> Route:
        """Give the same route for another forward."""
        return replace(self, calls={}, picked={})

    def replayed(self) -> Route:
        """Give the route for parts of the same forward that a backward pass runs again."""
        return replace(self, replays=True)

    def common(self) -> Route:
        """Give the route through banks whose one row all incomplete combinations share."""
        return replace(self, choice=self.choice.common(), picked={})

    def visit(self, site: str, recall: Recall | None = None) -> RouteMix:
        """Begin one call of a site."""
        call = 0 if self.replays else self.calls.get(site, 0)
        self.calls[site] = call + 1
        if self.uniform:
            return RouteMix(self, None, recall)
        places = self.placements.get(site, ())
        if self.replays and len(set(places)) != 1:
            raise InputError(
                f"site {site} is called {len(places)} times in one forward, with rows at several places, so it isn't "
                "known which of them the network runs again in the backward pass (activation checkpointing); pass rows "
                "that have the same modalities together, or switch checkpointing off"
            )
        if call >= len(places):
            raise NotLocated(
                f"site {site} was called {call + 1} times in one forward, but {len(places)} times when the "
                "rows were located; pass rows that have the same modalities together"
            )
        return RouteMix(self, places[call], recall)


@dataclass(slots=True)
class RouteMix:
    """Mix banks for one call of one site; see `subsense.adapters.base.Mix`."""

    route: Route
    placement: Placement | None
    recall: Recall | None = None

    def recalling(self, recall: Recall | None) -> RouteMix:
        """Give the same mix with another recall."""
        return replace(self, recall=recall)

    def common(self) -> RouteMix:
        """Give the mix of banks whose one row all incomplete combinations share."""
        return replace(self, route=self.route.common())

    def pick(self, bank: Tensor) -> Tensor:
        """Mix a bank (bank row, ...) for each batch row: (batch, ...), or (1, ...) where they are alike."""
        picked = self.route.picked.get(id(bank))
        return self.route.choice.of(bank) if picked is None else picked

    def spread(self, values: Tensor, like: Tensor, axis: int) -> Tensor:
        """Shape values of each batch row (row, *features), to broadcast to `like`, features from `axis` on."""
        if self.placement is None:
            return _shaped(values, like, axis, values.dim() - 1, None)
        return self.placement.spread(values, like, axis, values.dim() - 1)

    def blend(self, bank: Tensor, like: Tensor, axis: int) -> Tensor:
        """Give `spread` of `pick`."""
        return self.spread(self.pick(bank), like, axis)

    def vector(self, bank: Tensor) -> Tensor:
        """Mix a bank (bank row, *features) for a batch whose rows are alike: (*features)."""
        picked = self.route.picked.get(id(bank))
        return self.route.choice.vector(bank) if picked is None else picked[0]

    def rows(self, bank: Tensor) -> Tensor:
        """Give the bank rows that matter: the one where all batch rows use the same, otherwise all."""
        chosen = self._chosen
        return bank if chosen is None else bank.index_select(0, chosen)

    def gates(self, like: Tensor, axis: int, rank: int, repeats: int = 1) -> Tensor:
        """Give each batch row's weights of the active rows, broadcastable to `like`."""
        wide = self._active.repeat_interleave(rank, 1).repeat(1, repeats)
        return self.spread(wide, like, axis).to(like.dtype)

    @property
    def weights(self) -> Tensor:
        """Give the weights of `rows`, for a batch whose rows are alike: (active row,)."""
        return self._active[0]

    @property
    def _active(self) -> Tensor:
        """Give each batch row's weights of the bank rows that matter: (batch, active row), (1, active row)."""
        weights = self.route.weights
        return weights if self._chosen is None else weights.new_ones(1, 1)

    @property
    def _chosen(self) -> Tensor | None:
        """Give the one bank row (1,) that all batch rows use, where that is so."""
        choice = self.route.choice
        return choice.index if choice.row is not None else None
