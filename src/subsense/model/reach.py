"""Which sites a forward calls: all, or, where a missing modality is left out, those that its combination needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from subsense.injection.hooks import Injection
from subsense.injection.planning import Plan
from subsense.modalities.calling import Call
from subsense.routing.router import Router


class Reach:
    """Check that adapters act wherever they are to; written into the plan, by combination, where they may be silent.

    Args:
        plan: the sites; its `reached` is filled.
        router: says which combinations have sets.
        injection: says why a site is silent.
        call: says which modalities are left out.
    """

    def __init__(self, plan: Plan, router: Router, injection: Injection, call: Call) -> None:
        self.plan, self.router, self.injection, self.call = plan, router, injection, call
        self.is_checked = False

    def check_located(self, placements: Mapping[str, Any]) -> None:
        """Raise `LayerNeverCalled` for a site that isn't called on all modalities; not where some are left out."""
        if not self.call.omits:
            self.injection.check_called(placements)

    def check(self, calls: Collection[str], code: int | None) -> None:
        """Note what a forward called for rows of a bit mask; raise `LayerNeverCalled` for what none of them calls.

        Where modalities are left out that is known when every combination with a set has been called once.
        """
        if len(calls) < len(self.plan.sites):
            self.injection.check_in_place()
        if not self.call.omits:
            if not self.is_checked:
                self.injection.check_called(dict.fromkeys(calls))
                self.is_checked = True
            return
        if code is None or code == self.router.complete:
            return
        name = str(self.router.modalities.from_code(code))
        if name not in self.plan.reached:
            self.plan.reached[name] = frozenset(calls)
            if all(str(one) in self.plan.reached for one in self.router.combinations):
                self.injection.check_called(dict.fromkeys(frozenset().union(*self.plan.reached.values())))
