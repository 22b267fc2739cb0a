"""Where the network has the rows of a batch, and so whether rows that differ can share one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.injection.site import Site
from subsense.modalities.calling import Call
from subsense.modalities.inputs import Filled
from subsense.routing.groups import run_grouped
from subsense.routing.locate import Located, locate
from subsense.routing.placement import NotFinite, NotGrouped, NotLocated

OUTPUT = "(output)"
LARGE_GROUP = 2**21
"""Input numbers for each combination, from which on a CPU is faster by groups; measured in docs/performance.md."""


class Rows:
    """Run batches whose rows differ: in one pass where it is known where the rows are, else one kind after the other.

    Args:
        observe: runs the frozen network and gives what every site and the output are.
        sites: those whose rows matter; where one takes one set for all rows, they always run in groups.
        call: how the network is called.
        check: told the sites that are called, the first time that rows are located.

    Attributes:
        located: where rows are; None until a batch asks.
        names: what the output called each of its tensors when the network was last observed.
        may_choose: whether groups may differ from process to process; otherwise rows that need them are refused.
    """

    def __init__(
        self,
        observe: Callable[[Filled], Mapping[str, Sequence[Tensor]]],
        sites: Sequence[Site],
        call: Call,
        check: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._wholes = dict.fromkeys(f"{one.layer.path} ({one.layer.class_name})" for one in sites if one.layer.whole)
        self.may_choose = True
        self._observe, self._sites, self._call, self._check = observe, [site.key for site in sites], call, check
        self.located: Located | None = None
        self.names: Sequence[Any] = ()

    @property
    def placements(self) -> Mapping[str, Sequence[Any]]:
        """Give where each site and the output have the rows, as they were located."""
        assert self.located is not None
        return self.located.placements

    @property
    def unknown(self) -> bool:
        """Say whether some site's rows are not known."""
        return self.located is None or bool(self._wholes) or bool(self.located.unknown(self._sites))

    @property
    def why(self) -> str:
        """Say what makes groups necessary."""
        if self._wholes:
            return f"{', '.join(self._wholes)}: adapted in its own weights, one set for all rows of a batch"
        if self._call.needs_groups:
            return self._call.why_groups
        unknown = [] if self.located is None else self.located.unknown(self._sites)
        from subsense.support.tables import listed

        return f"it isn't known which rows are whose at {listed(unknown)}" if unknown else ""

    def locate(self, filled: Filled) -> Located:
        """Find out where each site has the rows of a batch."""
        self.located = locate(self._observe, filled, OUTPUT)
        return self.located

    def locate_once(self, filled: Filled, check: bool = True) -> None:
        """Find it out where it isn't known yet."""
        if self.located is None:
            located = self.locate(filled)
            if check:
                self._check(located.placements)

    def retried(self, run: Callable[[], Any]) -> Any:
        """Run a batch whose rows differ; once more where rows no longer are where they were."""
        try:
            return run()
        except NotLocated:
            self.located = None
            return run()

    def must_group(self, filled: Filled, kinds: Sequence[int]) -> bool:
        """Say whether rows of different kinds have to run apart, or are faster so."""
        must = self._call.needs_groups or self.unknown
        if must and not self.may_choose:
            error = NotGrouped(
                "the network is split between processes (fully_shard), which would make different numbers of calls and "
                "wait for each other",
            )
            error.why = self.why
            raise InputError(
                f"{error}; pass rows with the same modalities together, the same in all processes, or leave out the "
                f"layers that take one set for all rows (recurrent ones, packed experts). The cause: {self.why}"
            ) from error
        return must or (self.may_choose and self._groups_are_cheaper(filled, kinds))

    def grouped(self, run: Callable[[Filled, int], Any], filled: Filled, kinds: Sequence[int]) -> Any:
        """Run one kind of rows after the other."""
        self._check_output()
        return run_grouped(run, filled, kinds, self.placements.get(OUTPUT, ()), self.names, self.why)

    def _check_output(self) -> None:
        if self.located is not None and OUTPUT in self.located.not_finite:
            self.located = None  # other rows may tell
            raise NotFinite(
                "rows of this batch have different modalities, and the network gives NaN for all of them, whatever "
                "they hold, so it can't be told which rows of its output are whose; pass rows with the same modalities "
                "together to see for which it gives numbers: model.pretrained(inputs) of one combination at a time"
            )

    def _groups_are_cheaper(self, filled: Filled, kinds: Sequence[int]) -> bool:
        """Say whether one kind after the other is faster: large groups on a CPU, where batching saves nothing.

        A set for all rows of a group costs less than one for each row, and smaller batches stay in the cache.
        """
        tensors = [tensor for parts in filled.values() for tensor in parts]
        places = self.placements.get(OUTPUT, (None,))
        return (
            not torch.is_grad_enabled()
            and all(place is not None and not place.inner for place in places)
            and tensors[0].device.type == "cpu"
            and sum(tensor.numel() for tensor in tensors) >= LARGE_GROUP * len(set(kinds))
        )
