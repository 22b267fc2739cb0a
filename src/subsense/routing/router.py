"""`present` -> which adapter set serves, and how much of each bank row each batch row uses.

Both sharings are one formula, weights (batch, bank row) times bank (bank row, ...). With ``independent`` sharing the
weights are one-hot, kept as an index; with ``additive`` sharing a modality's row counts where the modality is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from subsense.errors import ModalityError, PlanError, UntrainedCombination, closest
from subsense.modalities import Combination, CombinationLike, Modalities
from subsense.modalities.declaration import Wanted
from subsense.routing.choice import Choice
from subsense.routing.placement import Placement
from subsense.routing.route import Route

SHARINGS = ("independent", "additive")
POLICIES = ("error", "nearest", "pretrained")


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
        self._tables: dict[tuple[frozenset[int], str, bool], list[int]] = {}

    @property
    def row_names(self) -> tuple[str, ...]:
        """Name the bank rows: combinations (independent), or the modality that is missing (additive)."""
        return tuple(map(str, self.combinations)) if self.sharing == "independent" else self.modalities.names

    def select(self, combinations: Wanted) -> tuple[Combination, ...]:
        """Give those of the combinations with adapter sets that are asked for: ``"all"``, one, or several.

        Raises:
            ModalityError: an unknown combination, the complete one, or one without an adapter set.
        """
        if isinstance(combinations, str) and combinations == "all":
            return self.combinations
        asked = self.modalities.select(combinations)
        if lacking := [str(one) for one in asked if one not in self.combinations]:
            raise ModalityError(
                f"combinations: {', '.join(lacking)} have no adapter set; those that have one are "
                f"{', '.join(map(str, self.combinations))}; adapt(combinations=...) chooses them"
            )
        return asked

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
        raise UntrainedCombination(self.refusal(code))

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
        if torch.compiler.is_compiling():  # what is kept would be a guard, and make the graph invalid
            return self._table(training)
        facts = (self.trained_rows, self.untrained, training)
        if facts not in self._tables:
            self._tables = {facts: self._table(training)}
        return self._tables[facts]

    def _table(self, training: bool) -> list[int]:
        return [-1, *(self._substitute_or_none(code, training) for code in range(1, self.complete + 1))]

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

    def refusal(self, code: int) -> str:
        """Say that nothing was trained for a combination, and what can be done."""
        trained = ", ".join(map(str, self.trained()))
        ways = "untrained='nearest' or untrained='pretrained'" if trained else "untrained='pretrained'"
        return (
            f"no adapter set was trained for {self.modalities.from_code(code)}; trained: {trained or 'none'}. "
            f"Train it, or say what to do instead: {ways} in `adapt` or `load`"
        )


def _check_choice(argument: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise PlanError(
            f"{argument}: expected one of {', '.join(known)}, but found {found!r}.{closest(str(found), known)}"
        )
