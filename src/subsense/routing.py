"""`present` -> how much of each bank row each batch row uses, and where a layer's output has its batch.

Both sharings are one formula, weights (batch, bank row) times bank (bank row, ...). With ``independent`` sharing the
weights are one-hot, kept as an index; with ``additive`` sharing a modality's row counts where the modality is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from subsense.adapters.affine import Recall
from subsense.errors import InputError, ModalityError, PlanError, UntrainedCombination, closest
from subsense.modalities import Combination, CombinationLike, Modalities
from subsense.picking import Choice

SHARINGS = ("independent", "additive")
POLICIES = ("error", "nearest", "pretrained")


@dataclass(frozen=True)
class Placement:
    """Say where a tensor inside the network has the batch.

    Attributes:
        axis: the axis that grows with the batch.
        inner: whether the batch varies fastest on that axis, as in (window * batch); otherwise (batch * window). None
            where that can't be told, since the axis held nothing but the batch.
    """

    axis: int
    inner: bool | None = None

    def spread(self, values: Tensor, like: Tensor, axis: int, num_features: int) -> Tensor:
        """Shape values (batch, *features) so that they broadcast to `like`, features from `axis` on."""
        folds, rest = divmod(like.shape[self.axis], len(values))
        if rest:
            raise InputError(
                f"a layer's output {tuple(like.shape)} has no place for {len(values)} rows on axis {self.axis}"
            )
        if folds != 1:
            self.check_folds(f"a layer's output {tuple(like.shape)}")
            values = values.repeat(folds, *[1] * num_features) if self.inner else values.repeat_interleave(folds, 0)
        return _shaped(values, like, axis, num_features, self.axis)

    def check_folds(self, what: str) -> None:
        """Raise `NotLocated` where it isn't known in which order an axis holds the batch and something else."""
        if self.inner is None:
            raise NotLocated(
                f"{what} holds more than the batch on axis {self.axis}, but didn't for the inputs with which rows were "
                "located; call locate(inputs) on the model, with inputs of this size"
            )


class NotLocated(InputError):
    """Say that rows were located on inputs of another size, which doesn't tell where they are in this one."""


def _shaped(values: Tensor, like: Tensor, axis: int, num_features: int, batch_axis: int | None) -> Tensor:
    shape = [1] * like.dim()
    first = axis % like.dim()
    shape[first : first + num_features] = values.shape[1:]
    if batch_axis is not None:
        shape[batch_axis] = len(values)
        if batch_axis > first:
            values = values.movedim(0, -1)
    return values.reshape(shape)


@dataclass
class Route:
    """Hold what each row of one batch uses of every bank.

    Attributes:
        choice: how much of each bank row each batch row uses.
        uniform: whether all rows are alike.
        placements: site -> where its outputs have the batch, one for each time it is called.
        calls: site -> how often it has been called in this forward.
        picked: id of a bank -> what is used of it, as far as that is known already.
    """

    choice: Choice
    uniform: bool
    placements: Mapping[str, Sequence[Placement]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    picked: Mapping[int, Tensor] = field(default_factory=dict)

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

    def visit(self, site: str, recall: Recall | None = None) -> RouteMix:
        """Begin one call of a site."""
        call = self.calls.get(site, 0)
        self.calls[site] = call + 1
        if self.uniform:
            return RouteMix(self, None, recall)
        places = self.placements.get(site, ())
        if call >= len(places):
            raise InputError(
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

    def blend(self, bank: Tensor, like: Tensor, axis: int) -> Tensor:
        """Mix a bank (bank row, *features) for each batch row; broadcastable to `like`."""
        return self._place(self._pick(bank), like, axis, bank.dim() - 1)

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
        weights = self.route.weights
        active = weights if self._chosen is None else weights.new_ones(1, 1)
        wide = active.repeat_interleave(rank, 1).repeat(1, repeats)
        return self._place(wide, like, axis, 1).to(like.dtype)

    @property
    def _chosen(self) -> Tensor | None:
        """Give the one bank row (1,) that all batch rows use, where that is so."""
        choice = self.route.choice
        return choice.index if choice.row is not None else None

    def _pick(self, bank: Tensor) -> Tensor:
        picked = self.route.picked.get(id(bank))
        return self.route.choice.of(bank) if picked is None else picked

    def _place(self, values: Tensor, like: Tensor, axis: int, num_features: int) -> Tensor:
        if self.placement is None:
            return _shaped(values, like, axis, num_features, None)
        return self.placement.spread(values, like, axis, num_features)


class Router:
    """Turn combinations into routes, and refuse those for which nothing was trained.

    Args:
        modalities: the declared modalities.
        combinations: the incomplete combinations that have adapter sets.
        sharing: ``"independent"`` or ``"additive"``.
        untrained: what to do with a combination that was not trained: ``"error"``, ``"nearest"`` (the set of the
            trained combination that differs in the fewest modalities; of equals, one that is a subset of what is
            present) or ``"pretrained"`` (no set).
    """

    def __init__(
        self, modalities: Modalities, combinations: Sequence[Combination], sharing: str, untrained: str = "error"
    ) -> None:
        _check_choice("sharing", sharing, SHARINGS)
        _check_choice("untrained", untrained, POLICIES)
        self.modalities, self.combinations = modalities, tuple(combinations)
        self.sharing, self.untrained = sharing, untrained
        self.trained_rows: frozenset[int] = frozenset()
        self.index = {modalities.code(one): row for row, one in enumerate(self.combinations)}
        self.complete = modalities.code(modalities.complete)

    @property
    def row_names(self) -> tuple[str, ...]:
        """Name the bank rows: combinations (independent), or the modality that is missing (additive)."""
        return tuple(map(str, self.combinations)) if self.sharing == "independent" else self.modalities.names

    def rows(self, combinations: Iterable[CombinationLike]) -> frozenset[int]:
        """Give the bank rows which the combinations use; raise `ModalityError` where one has none."""
        codes = [self.modalities.code(one) for one in combinations]
        return frozenset(row for code in codes for row in self._rows(code, must=True))

    def trained(self) -> tuple[Combination, ...]:
        """Give the incomplete combinations whose bank rows have all been trained."""
        return tuple(one for one in self.modalities.incomplete() if self._is_trained(self.modalities.code(one)))

    def substitute(self, code: int, training: bool) -> int:
        """Give the combination whose set serves `code`: itself, or what the policy says; the complete one means none.

        Raises:
            UntrainedCombination: nothing was trained for it and the policy is ``"error"``; in training, it has no set.
        """
        if code == self.complete or (self._rows(code) if training else self._is_trained(code)):
            return code
        if self.untrained == "pretrained":
            return self.complete
        candidates = [self.modalities.code(one) for one in self.trained()]
        if self.untrained == "nearest" and candidates:
            return min(candidates, key=lambda other: ((code ^ other).bit_count(), (other & ~code).bit_count()))
        raise UntrainedCombination(self._refusal(code))

    def uniform(self, code: int, device: torch.device) -> Route:
        """Give the route of a batch in which every row has the same modalities."""
        return self._route([code], device, uniform=True)

    def mixed(self, codes: Sequence[int], device: torch.device, placements: Mapping[str, Sequence[Placement]]) -> Route:
        """Give the route of a batch whose rows differ."""
        return self._route(codes, device, uniform=False, placements=placements)

    def dynamic(self, present: Tensor, placements: Mapping[str, Sequence[Placement]], training: bool) -> Route:
        """Give the route of `present` (batch, modality) by tensor operations alone, for a graph that is being compiled.

        A row that the policy would refuse gets weights of NaN, so that no wrong number comes out.
        """
        device = present.device
        bits = torch.tensor([1 << bit for bit in range(len(self.modalities))], device=device)
        served = torch.tensor(self.table(training), device=device)[(present * bits).sum(1)]
        if self.sharing == "independent":
            lookup = [self.index.get(code, -1) for code in range(self.complete + 1)]
            chosen = torch.tensor(lookup, device=device)[served.clamp(min=0)]
            weights = (chosen[:, None] == torch.arange(len(self.combinations), device=device)).float()
        else:
            weights = ((served[:, None] & bits) == 0).float()
        weights = torch.where(served[:, None] < 0, float("nan"), weights)
        return Route(Choice(weights), False, placements)

    def table(self, training: bool) -> list[int]:
        """Give, for each combination as a bit mask, the one whose set serves it; -1 for none at all or a refusal."""
        codes = range(1, self.complete + 1)
        return [-1, *(self._substitute_or_none(code, training) for code in codes)]

    def _substitute_or_none(self, code: int, training: bool) -> int:
        try:
            return self.substitute(code, training) if code else -1
        except UntrainedCombination:
            return -1

    def _route(
        self,
        codes: Sequence[int],
        device: torch.device,
        uniform: bool,
        placements: Mapping[str, Sequence[Placement]] | None = None,
    ) -> Route:
        placements = placements or {}
        if self.sharing == "additive":
            missing = [[float(not code >> bit & 1) for bit in range(len(self.modalities))] for code in codes]
            return Route(Choice(torch.tensor(missing, device=device)), uniform, placements)
        rows = [self.index.get(code, -1) for code in codes]
        weights = torch.tensor([self._one_hot(row) for row in rows], device=device)
        index = torch.tensor([max(0, row) for row in rows], device=device)
        used = None if min(rows) >= 0 else torch.tensor([row >= 0 for row in rows], device=device)
        return Route(Choice(weights, index, used, rows[0] if uniform else None), uniform, placements)

    def _one_hot(self, row: int) -> list[float]:
        weights = [0.0] * len(self.combinations)
        if row >= 0:
            weights[row] = 1.0
        return weights

    def _rows(self, code: int, must: bool = False) -> tuple[int, ...]:
        if self.sharing == "additive":
            return tuple(bit for bit in range(len(self.modalities)) if not code >> bit & 1)
        if code in self.index:
            return (self.index[code],)
        if must:
            raise ModalityError(
                f"combination {self.modalities.from_code(code)} has no adapter set; those that have one: "
                f"{', '.join(map(str, self.combinations))}"
            )
        return ()

    def _is_trained(self, code: int) -> bool:
        rows = self._rows(code)
        return bool(rows) and self.trained_rows.issuperset(rows)

    def _refusal(self, code: int) -> str:
        trained = ", ".join(map(str, self.trained())) or "none"
        return (
            f"no adapter set was trained for {self.modalities.from_code(code)}; trained: {trained}. Train it, or say "
            "what to do instead: untrained='nearest' or untrained='pretrained' in `adapt` or `load`"
        )


def _check_choice(argument: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise PlanError(
            f"{argument}: expected one of {', '.join(known)}, but found {found!r}.{closest(str(found), known)}"
        )
