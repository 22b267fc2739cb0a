"""One forward pass: which rows use which adapter set, in one pass for all or in one for each combination."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from subsense.errors import InputError
from subsense.injection.forward_pass import Visitor
from subsense.injection.fused_attention import plain_attention
from subsense.injection.hooks import Injection
from subsense.injection.planning import Plan
from subsense.modalities import Modalities
from subsense.modalities.calling import Call
from subsense.modalities.inputs import Batch, Filled
from subsense.model.compiled import Graphs
from subsense.model.frozen import Before
from subsense.model.reach import Reach
from subsense.model.rows import OUTPUT, Rows
from subsense.routing.choice import Choice
from subsense.routing.groups import output_names, output_tensors
from subsense.routing.route import Route
from subsense.routing.router import Router
from subsense.support.modules import evaluating
from subsense.support.torch_private import is_sharded

if TYPE_CHECKING:
    from subsense.model.rounding import Rounding
    from subsense.model.splitting import Splitting


@dataclass
class _Guard:
    """Let one call of a model run at a time; a copy of the model gets a guard of its own."""

    lock: Any = field(default_factory=threading.RLock)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Guard:
        return _Guard()

    def __reduce__(self) -> tuple[type[_Guard], tuple[()]]:
        return _Guard, ()

    def hold(self) -> Any:
        """Give a context in which no other thread runs the model; none while a graph is being compiled."""
        return ExitStack() if torch.compiler.is_compiling() else self.lock


class Execution:
    """Run a frozen network on filled inputs, with the adapter sets that the router chooses.

    `training` says whether adapters are in training mode, in which a set may be used that is not finished. `rows` knows
    where rows are inside the network, found out when a mixed batch asks; `rounding` what becomes of rounding in norms.
    """

    def __init__(self, network: nn.Module, plan: Plan, router: Router, injection: Injection, call: Call) -> None:
        self.network, self.plan, self.router, self.injection, self.call = network, plan, router, injection, call
        self.before = Before(network)
        self.reach = Reach(plan, router, injection, call)
        self.rows = Rows(self.observe, plan.sites, call, self.reach.check_located)
        self._guard, self._graphs = _Guard(), Graphs()
        self._splitting: Splitting | None = None

    @property
    def modalities(self) -> Modalities:
        """Give the declared modalities."""
        return self.router.modalities

    @cached_property
    def rounding(self) -> Rounding:
        """Give what looks at norms; imported when the model is first called."""
        from subsense.model.rounding import Rounding

        return Rounding(self.network, self.call, self.modalities, self.plain, self.injection.paused)

    def hold(self) -> Any:
        """Give a context in which no other thread runs the model."""
        return self._guard.hold()

    @property
    def splitting(self) -> Splitting | None:
        """Give what processes have to agree on; None where the network isn't split between them."""
        if self._splitting is None and is_sharded(self.network):
            self._splitting = _splitting(self.call, self.rows)
        return self._splitting

    def run(self, filled: Filled, batch: Batch, training: bool) -> Any:
        """Give the network's own output for a batch, whatever is missing."""
        if not torch.compiler.is_compiling() and self.splitting is not None:
            self.splitting.agree(filled)  # and nothing may run that others don't
        elif not torch.compiler.is_compiling() and self.rounding.norms:
            with self.rounding.watching(filled, batch):
                return self._run_batch(filled, batch, training)
        return self._run_batch(filled, batch, training)

    def _run_batch(self, filled: Filled, batch: Batch, training: bool) -> Any:
        if batch.quality is not None and not torch.compiler.is_compiling():
            return self.rows.retried(lambda: self._graded(filled, batch, training))
        if batch.code is not None:
            if torch.compiler.is_dynamo_compiling():
                self._graphs.traced()
            return self.uniform(filled, batch.code, batch.device, training)
        if torch.compiler.is_compiling():
            return self._compiled(filled, batch, training)
        return self.rows.retried(lambda: self._mixed(filled, batch, training))

    def features(self, filled: Filled, code: int | None, adapted: bool, training: bool) -> dict[str, list[Tensor]]:
        """Give what every site gives, for rows that all have the modalities of the bit mask, without gradients."""
        if code is None:
            raise InputError(
                "features: expected rows that all lack the same modalities; pass one combination at a time"
            )
        served = self.router.substitute(code, training)
        if not adapted or served == self.router.complete:
            return {site: list(found) for site, found in self.observe(filled, code).items() if site != OUTPUT}
        device = next(iter(filled.values()))[0].device
        with torch.no_grad(), self.injection.observing() as observed:
            present = self.call.rows(self.modalities, filled, code)
            self._adapted(filled, self.router.uniform(served, device), present, code)
        return observed

    def visit(self, filled: Filled, visitor: Visitor, present: Tensor) -> Any:
        """Run the network, without gradients; a visitor says what each site gives, in turn."""
        self.before.check_modes()
        with self.hold(), torch.no_grad(), plain_attention(), self.injection.visited(visitor):
            return self.call(self.network, self.modalities, filled, present)

    @contextmanager
    def no_adapters(self) -> Iterator[None]:
        """Leave the network for a while exactly as it was, frozen and in eval mode."""
        with self.hold(), self.injection.paused():
            yield

    def uniform(self, filled: Filled, code: int, device: torch.device, training: bool) -> Any:
        """Give the network's own output for rows that all have the modalities of the bit mask."""
        served = self.router.substitute(code, training)
        self._mark([served], training)
        present = self.call.rows(self.modalities, filled, code)
        if served == self.router.complete:
            return self.plain(filled, present)
        return self._adapted(filled, self.router.uniform(served, device), present, code)

    def _graded(self, filled: Filled, batch: Batch, training: bool) -> Any:
        """Run a batch with qualities between 0 and 1: each row with weights of its own, or each kind of row alone."""
        assert batch.quality is not None
        from subsense.routing.quality import weights_of

        weights = weights_of(self.router, batch.quality, training).to(self.injection.banks.dtype).to(batch.device)
        kinds, which = batch.quality.unique(dim=0, return_inverse=True)
        first = [which.tolist().index(kind) for kind in range(len(kinds))]
        self._mark_rows(weights, training)

        def alike(part: Filled, kind: int) -> Any:
            route = Route(Choice(weights[first[kind]][None]), uniform=True)
            present = batch.present[first[kind]].expand(len(next(iter(part.values()))[0]), -1)
            code = batch.codes(self.modalities)[first[kind]]
            return self._adapted(self.call.without(self.modalities, part, code), route, present, code)

        if len(kinds) == 1:
            return alike(filled, 0)
        self._locate_once(filled, batch)
        if self.rows.must_group(filled, which.tolist()):
            return self.rows.grouped(alike, filled, which.tolist())
        return self._adapted(filled, Route(Choice(weights), False, self.rows.placements), batch.present)

    def _mixed(self, filled: Filled, batch: Batch, training: bool) -> Any:
        codes = batch.codes(self.modalities)
        served = [self.router.substitute(code, training) for code in codes]
        self._locate_once(filled, batch)
        if (self.call.function is not None or self.call.omits) and self.rows.must_group(filled, served):
            return self._grouped(filled, codes, batch.device, training)
        if self.rows.must_group(filled, served):
            return self._grouped(filled, served, batch.device, training)
        self._mark(served, training)
        return self._adapted(filled, self.router.mixed(served, batch.device, self.rows.placements), batch.present)

    def _locate_once(self, filled: Filled, batch: Batch, check: bool = True) -> None:
        self.rows.locate_once(self.call.fullest(self.modalities, filled, batch.codes(self.modalities)), check)

    def _grouped(self, filled: Filled, codes: Sequence[int], device: torch.device, training: bool) -> Any:
        def run(part: Filled, code: int) -> Any:
            return self.uniform(self.call.without(self.modalities, part, code), code, device, training)

        return self.rows.grouped(run, filled, codes)

    def pretrained(self, filled: Filled, batch: Batch) -> Any:
        """Give the frozen network's output, no adapter acting; in groups where its function must not see mixed rows."""
        if batch.code is not None or not self.call.needs_groups or torch.compiler.is_compiling():
            return self.plain(filled, batch.present)
        self._locate_once(filled, batch, check=False)

        def run(part: Filled, code: int) -> Any:
            part = self.call.without(self.modalities, part, code)
            return self.plain(part, self.call.rows(self.modalities, part, code))

        return self.rows.grouped(run, filled, batch.codes(self.modalities))

    def _mark(self, codes: Iterable[int], training: bool) -> None:
        if training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            incomplete = [self.modalities.from_code(code) for code in set(codes) if code != self.router.complete]
            self.router.trained_rows |= self.router.rows(incomplete)

    def _mark_rows(self, weights: Tensor, training: bool) -> None:
        if training and torch.is_grad_enabled():
            self.router.trained_rows |= set(weights.any(0).nonzero().flatten().tolist())

    def _compiled(self, filled: Filled, batch: Batch, training: bool) -> Any:
        _check_one_graph(self.call, self.rows)
        present = batch.present.to(batch.device)
        if batch.quality is None:
            return self._adapted(filled, self.router.dynamic(present, self.rows.placements, training), present)
        quality = torch.where(present, batch.quality.to(batch.device), 0)  # what wasn't passed is missing
        from subsense.routing.quality import weights_or_nan

        weights = weights_or_nan(self.router, quality, training).to(self.injection.banks.dtype)
        return self._adapted(filled, Route(Choice(weights), False, self.rows.placements), present)

    def along(self, filled: Filled, route: Route, present: Tensor) -> Any:
        """Give the network's own output along a route that the caller made."""
        return self._adapted(filled, route, present)

    def _adapted(self, filled: Filled, route: Route, present: Tensor | None, code: int | None = None) -> Any:
        output, is_lost = self._run(filled, route, present)
        if is_lost:  # a kept output was changed in place, as it never was before: now it is known
            output, _ = self._run(filled, route.again(), present)
        if not torch.compiler.is_compiling():
            self.reach.check(route.calls, code)
        return output

    def _run(self, filled: Filled, route: Route, present: Tensor | None) -> tuple[Any, bool]:
        with plain_attention(), self.injection.using(route) as running:
            output = self.call(self.network, self.modalities, filled, present)
            if running.grads:
                self.injection.passes.keep(running, output_tensors(output))
            return output, bool(running.watched) and running.settle(output_tensors(output))

    def plain(self, filled: Filled, present: Tensor | None = None) -> Any:
        if torch.compiler.is_compiling():
            return self.call(self.network, self.modalities, filled, present)
        with self.injection.bypassed(), self.before.kernels(filled):
            return self.call(self.network, self.modalities, filled, present)

    def observe(self, filled: Filled, code: int | None = None) -> Mapping[str, Sequence[Tensor]]:
        present = None if code is None else self.call.rows(self.modalities, filled, code)
        with evaluating(self.network), torch.no_grad(), plain_attention(), self.injection.observing() as observed:
            output = self.call(self.network, self.modalities, filled, present)
        self.rows.names = output_names(output)
        return observed | {OUTPUT: output_tensors(output)}


def _splitting(call: Call, rows: Rows) -> Splitting:
    from subsense.model.splitting import Splitting

    return Splitting(call, rows)


def _check_one_graph(call: Call, rows: Rows) -> None:
    """Raise `InputError` where a graph with `present` can't run rows that differ."""
    if call.omits:
        raise InputError(
            "a graph with `present` can't run rows in groups, and nothing stands in for "
            f"{', '.join(sorted(call.omits))} (fill 'omit'); leave `present` out of the graph: one "
            "combination at a time, or choose another fill"
        )
    if rows.unknown:
        raise InputError(
            "a graph with `present` needs to know where rows are inside the network: call the model once with "
            "a mixed batch, or model.locate(inputs), before compiling it"
            if rows.located is None
            else f"a graph with `present` can't run rows in groups, which are needed because of this: {rows.why}; "
            "leave `present` out of the graph: one combination at a time"
        )
    if call.needs_groups:
        raise InputError(
            "a graph with `present` can't run rows in groups, and the function that calls the network isn't told "
            "what each row has; give it an argument for that: call=lambda network, inputs, present: ..., or leave "
            "`present` out of the graph: one combination at a time"
        )
