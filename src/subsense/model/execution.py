"""One forward pass: which rows use which adapter set, in one pass for all or in one for each combination."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

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
from subsense.routing.groups import output_tensors, run_grouped
from subsense.routing.locate import Located, locate
from subsense.routing.placement import NotFinite, NotLocated
from subsense.routing.route import Route
from subsense.routing.router import Router
from subsense.support.modules import evaluating

OUTPUT = "(output)"
LARGE_GROUP = 2**21
"""Input numbers for each combination, from which on a CPU is faster by groups; measured in docs/performance.md."""


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

    Attributes:
        located: where rows are inside the network; None until a mixed batch asks.

    `training` says whether adapters are in training mode, in which a set may be used that is not finished.
    """

    def __init__(self, network: nn.Module, plan: Plan, router: Router, injection: Injection, call: Call) -> None:
        self.network, self.plan, self.router = network, plan, router
        self.injection, self.call = injection, call
        self.before = Before(network)
        self.located: Located | None = None
        self.is_checked = False
        self._guard, self._graphs = _Guard(), Graphs()

    @property
    def modalities(self) -> Modalities:
        """Give the declared modalities."""
        return self.router.modalities

    def hold(self) -> Any:
        """Give a context in which no other thread runs the model."""
        return self._guard.hold()

    def run(self, filled: Filled, batch: Batch, training: bool) -> Any:
        """Give the network's own output for a batch, whatever is missing."""
        if batch.code is not None:
            if torch.compiler.is_dynamo_compiling():
                self._graphs.traced()
            return self._uniform(filled, batch.code, batch.device, training)
        if torch.compiler.is_compiling():
            return self._compiled(filled, batch, training)
        try:
            return self._mixed(filled, batch, training)
        except NotLocated:
            self.located = None
            return self._mixed(filled, batch, training)

    def features(self, filled: Filled, code: int, adapted: bool, training: bool) -> dict[str, list[Tensor]]:
        """Give what every site gives, for rows that all have the modalities of the bit mask, without gradients."""
        served = self.router.substitute(code, training)
        if not adapted or served == self.router.complete:
            return {site: list(found) for site, found in self.observe(filled, code).items() if site != OUTPUT}
        device = next(iter(filled.values()))[0].device
        with torch.no_grad(), self.injection.observing() as observed:
            self._adapted(filled, self.router.uniform(served, device), self.call.rows(self.modalities, filled, code))
        return observed

    def visit(self, filled: Filled, visitor: Visitor, present: Tensor) -> Any:
        """Run the network, without gradients; a visitor says what each site gives, in turn."""
        self.before.check_modes()
        if self.call.needs_groups and bool((present != present[:1]).any()):
            raise InputError(
                "calibrating runs several combinations as one batch, and the function that calls the network isn't "
                "told what each row has; give it an argument for that: call=lambda network, inputs, present: ..."
            )
        with self.hold(), torch.no_grad(), plain_attention(), self.injection.visited(visitor):
            return self.call(self.network, self.modalities, filled, present)

    def locate(self, filled: Filled) -> Located:
        """Find out where each site has the rows of a batch."""
        self.located = locate(self.observe, filled, OUTPUT)
        return self.located

    @contextmanager
    def no_adapters(self) -> Iterator[None]:
        """Leave the network for a while exactly as it was, frozen and in eval mode."""
        with self.hold(), self.injection.paused():
            yield

    def _uniform(self, filled: Filled, code: int, device: torch.device, training: bool) -> Any:
        served = self.router.substitute(code, training)
        self._mark([served], training)
        present = self.call.rows(self.modalities, filled, code)
        if served == self.router.complete:
            return self.plain(filled, present)
        return self._adapted(filled, self.router.uniform(served, device), present)

    def _mixed(self, filled: Filled, batch: Batch, training: bool) -> Any:
        codes = batch.codes(self.modalities)
        served = [self.router.substitute(code, training) for code in codes]
        located = self.located
        if located is None:
            located = self.locate(filled)
            self.injection.check_called(located.placements)
        if self.call.function is not None and self._must_group(filled, served):
            return self._grouped(filled, codes, batch.device, training)
        if self._must_group(filled, served):
            return self._grouped(filled, served, batch.device, training)
        self._mark(served, training)
        return self._adapted(filled, self.router.mixed(served, batch.device, self._placements()), batch.present)

    def _must_group(self, filled: Filled, served: Sequence[int]) -> bool:
        assert self.located is not None
        return (
            self.call.needs_groups
            or bool(self.located.unknown([site.key for site in self.plan.sites]))
            or self._groups_are_cheaper(filled, served)
        )

    def _grouped(self, filled: Filled, codes: Sequence[int], device: torch.device, training: bool) -> Any:
        self._check_output()
        return run_grouped(
            lambda part, code: self._uniform(part, code, device, training),
            filled,
            codes,
            self._placements().get(OUTPUT, ()),
        )

    def pretrained(self, filled: Filled, batch: Batch) -> Any:
        """Give the frozen network's output, no adapter acting; in groups where its function must not see mixed rows."""
        if batch.code is not None or not self.call.needs_groups or torch.compiler.is_compiling():
            return self.plain(filled, batch.present)
        if self.located is None:
            self.locate(filled)
        self._check_output()
        codes = batch.codes(self.modalities)
        return run_grouped(lambda part, _: self.plain(part), filled, codes, self._placements().get(OUTPUT, ()))

    def _check_output(self) -> None:
        if self.located is not None and OUTPUT in self.located.not_finite:
            self.located = None  # other rows may tell
            raise NotFinite(
                "rows of this batch have different modalities, and the network gives NaN for all of them, whatever "
                "they hold, so it can't be told which rows of its output are whose; pass rows with the same modalities "
                "together to see for which it gives numbers: model.pretrained(inputs) of one combination at a time"
            )

    def _groups_are_cheaper(self, filled: Filled, served: Sequence[int]) -> bool:
        """Say whether one combination after the other is faster: large groups on a CPU, where batching saves nothing.

        A set for all rows of a group costs less than one for each row, and smaller batches stay in the cache.
        """
        tensors = [tensor for parts in filled.values() for tensor in parts]
        places = self._placements().get(OUTPUT, (None,))
        return (
            not torch.is_grad_enabled()
            and all(place is not None and not place.inner for place in places)
            and tensors[0].device.type == "cpu"
            and sum(tensor.numel() for tensor in tensors) >= LARGE_GROUP * len(set(served))
        )

    def _mark(self, codes: Iterable[int], training: bool) -> None:
        if training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            incomplete = [self.modalities.from_code(code) for code in set(codes) if code != self.router.complete]
            self.router.trained_rows |= self.router.rows(incomplete)

    def _compiled(self, filled: Filled, batch: Batch, training: bool) -> Any:
        if self.located is None or self.located.unknown([site.key for site in self.plan.sites]):
            raise InputError(
                "a graph with `present` needs to know where rows are inside the network: call the model once with "
                "a mixed batch, or model.locate(inputs), before compiling it"
            )
        if self.call.needs_groups:
            raise InputError(
                "a graph with `present` can't run rows in groups, and the function that calls the network isn't told "
                "what each row has; give it an argument for that: call=lambda network, inputs, present: ..., or leave "
                "`present` out of the graph: one combination at a time"
            )
        present = batch.present.to(batch.device)
        return self._adapted(filled, self.router.dynamic(present, self._placements(), training), present)

    def _placements(self) -> Mapping[str, Sequence[Any]]:
        assert self.located is not None
        return self.located.placements

    def _adapted(self, filled: Filled, route: Route, present: Tensor | None) -> Any:
        output, is_lost = self._run(filled, route, present)
        if is_lost:  # a kept output was changed in place, as it never was before: now it is known
            output, _ = self._run(filled, route.again(), present)
        if not torch.compiler.is_compiling():
            self._check(route)
        return output

    def _check(self, route: Route) -> None:
        """Find out whether adapters acted wherever they are to: once for all, and where one is silent, why."""
        if len(route.calls) < len(self.plan.sites):
            self.injection.check_in_place()
        if not self.is_checked:
            self.injection.check_called(route.calls)
            self.is_checked = True

    def _run(self, filled: Filled, route: Route, present: Tensor | None) -> tuple[Any, bool]:
        with plain_attention(), self.injection.using(route) as running:
            output = self.call(self.network, self.modalities, filled, present)
            return output, bool(running.watched) and running.settle(output_tensors(output))

    def plain(self, filled: Filled, present: Tensor | None = None) -> Any:
        if torch.compiler.is_compiling():
            return self.call(self.network, self.modalities, filled, present)
        with self.injection.paused(), self.before.kernels(filled):
            return self.call(self.network, self.modalities, filled, present)

    def observe(self, filled: Filled, code: int | None = None) -> Mapping[str, Sequence[Tensor]]:
        present = None if code is None else self.call.rows(self.modalities, filled, code)
        with evaluating(self.network), torch.no_grad(), plain_attention(), self.injection.observing() as observed:
            output = self.call(self.network, self.modalities, filled, present)
        return observed | {OUTPUT: output_tensors(output)}
