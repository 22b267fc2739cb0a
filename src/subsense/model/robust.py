"""RobustModel: fill what is missing, choose the adapter sets, call the frozen network."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters import Adapter
from subsense.errors import InputError, ModalityError
from subsense.injection.banks import Banks
from subsense.injection.forward_pass import Visitor
from subsense.injection.fused_attention import plain_attention
from subsense.injection.hooks import Injection
from subsense.injection.planning import Plan, Site
from subsense.injection.saved_outputs import SavedOutputs
from subsense.modalities import Combination, CombinationLike, Modalities, Wanted
from subsense.modalities.calling import Call
from subsense.modalities.filling import Filling
from subsense.modalities.inputs import Batch, Filled, Inputs, check_finite, read
from subsense.model.compiled import Graphs
from subsense.model.filled import FilledNetwork
from subsense.model.fingerprint import fingerprint
from subsense.model.frozen import Before
from subsense.routing.groups import output_tensors, run_grouped
from subsense.routing.locate import Located, locate
from subsense.routing.placement import NotFinite, NotLocated
from subsense.routing.route import Route
from subsense.routing.router import Router
from subsense.support.modules import device_of, evaluating

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


class RobustModel(nn.Module):
    """Be a frozen network with adapter sets that are chosen by what is present. Made by `adapt`.

    Attributes:
        network: the user's network; always in eval mode and frozen while adapted.
        plan: its sites; printing it gives a table.
        fill: what stands in for missing inputs.
        banks: the trained parameters.
        check_inputs: whether NaN and infinity in what is present are refused.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        banks: Banks,
        fill: Filling,
        router: Router,
        injection: Injection,
        call: Call,
    ) -> None:
        super().__init__()
        self.plan, self.router, self.injection, self.call = plan, router, injection, call
        self._before = Before(network)
        self.network, self.banks, self.fill = network.eval().requires_grad_(False), banks, fill.to(device_of(banks))
        self.located: Located | None = None
        self.check_inputs = False
        self._guard = _Guard()
        self._graphs = Graphs()
        self._checked = False

    @property
    def modalities(self) -> Modalities:
        """Give the declared modalities."""
        return self.fill.modalities

    @property
    def sharing(self) -> str:
        """Give what the bank rows are: ``"independent"`` or ``"additive"``."""
        return self.router.sharing

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Give the incomplete combinations that have adapter sets."""
        return self.router.combinations

    @property
    def trained(self) -> tuple[Combination, ...]:
        """Give the incomplete combinations whose bank rows have been trained; additive sharing reaches undrawn ones."""
        return self.router.trained()

    @property
    def memory(self) -> str:
        """Give how training spends memory: ``"normal"``, or ``"low"``, which takes longer; it can be set."""
        return self.injection.saved.memory

    @memory.setter
    def memory(self, memory: str) -> None:
        self.injection.saved = SavedOutputs(memory)

    def forward(self, inputs: Inputs, present: Tensor | None = None) -> Any:
        """Give the network's own output, whatever is missing.

        Args:
            inputs: modality -> tensor (batch, *axes); a modality that is absent or None is missing in every row. An
                entry ``"present"`` is used where the argument is None.
            present: bool (batch, modality): which modalities each row has. A value that is passed for a missing
                modality is never read.

        Raises:
            InputError: inputs or `present` that don't fit the declaration.
            UntrainedCombination: nothing was trained for what is present (in eval mode, policy ``"error"``).
            LayerNeverCalled: a site that the network never reaches.
        """
        batch = self._read(inputs, present)
        with self._guard.hold():
            filled = self.fill(batch)
            if batch.code is not None:
                if torch.compiler.is_dynamo_compiling():
                    self._graphs.traced()
                return self._uniform(filled, batch.code, batch.device)
            if torch.compiler.is_compiling():
                return self._compiled(filled, batch)
            try:
                return self._mixed(filled, batch)
            except NotLocated:
                self.located = None
                return self._mixed(filled, batch)

    def pretrained(self, inputs: Inputs, present: Tensor | None = None) -> Any:
        """Give the frozen network's output on filled inputs, no adapter acting; arguments as for `forward`."""
        batch = self._read(inputs, present)
        with self._guard.hold():
            return self._plain(self.fill(batch))

    def features(self, inputs: Inputs, *, adapted: bool = True) -> dict[str, list[Tensor]]:
        """Give what every site gives on the way to the output, without gradients.

        Args:
            inputs: as for `forward`; all rows lack the same modalities.
            adapted: as the adapters change it; otherwise what the frozen network has there on filled inputs. With
                everything present that is the same.

        Returns:
            Site -> its outputs, one for each time the network calls it, as the layer shapes them.

        Raises:
            InputError: rows that lack different modalities.
            UntrainedCombination: as for `forward`.
        """
        batch = read(self.modalities, inputs)
        if batch.code is None:
            raise InputError(
                "features: expected rows that all lack the same modalities; pass one combination at a time"
            )
        with self._guard.hold():
            filled, served = self.fill(batch), self.router.substitute(batch.code, self.training)
            if not adapted or served == self.router.complete:
                return {site: list(found) for site, found in self._observe(filled).items() if site != OUTPUT}
            with torch.no_grad(), self.injection.observing() as observed:
                self._adapted(filled, self.router.uniform(served, batch.device))
        return observed

    def visit(self, batch: Batch, visitor: Visitor) -> Any:
        """Run the network on a checked batch, without gradients; a visitor says what each site gives, in turn."""
        self._before.check_modes()
        with self._guard.hold(), torch.no_grad(), plain_attention(), self.injection.visited(visitor):
            return self.call(self.network, self.modalities, self.fill(batch))

    def filled(self, network: nn.Module) -> FilledNetwork:
        """Put another network behind the same fill and the same call, without adapters: a baseline."""
        return FilledNetwork(network, self.fill, self.call)

    def train(self, mode: bool = True) -> RobustModel:
        """Set the mode of adapters; the network stays in eval mode, so that no statistics move."""
        super().train(mode)
        if hasattr(self, "network"):
            self.network.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> RobustModel:
        """Set whether the adapters are trained; the network stays frozen."""
        for parameter in self.adapter_parameters().values():
            parameter.requires_grad_(requires_grad)
        return self

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Give what is trained, by name.

        Banks are ``site:adapter:parameter`` (bank row, ...), learned fills ``fill.modality.part``.
        """
        fills = {
            f"fill.{name}": value for name, value in self.fill.stand_ins().items() if isinstance(value, nn.Parameter)
        }
        return self.banks.named() | fills

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

    def bank_rows(self, combinations: Wanted) -> Tensor:
        """Give which bank rows the combinations use: bool (bank row,)."""
        used = self.router.rows(self.select(combinations))
        return torch.tensor([row in used for row in range(len(self.router.row_names))])

    def adapter_set(self, combination: CombinationLike) -> list[tuple[Site, Adapter, dict[str, Tensor]]]:
        """Give what the route selects for a combination: one parameter set for each adapter at each site.

        The complete combination has none. Where the combination was not trained, the policy decides.
        """
        code = self.router.substitute(self.modalities.code(combination), training=False)
        if code == self.router.complete:
            return []
        weights = self.router.uniform(code, device_of(self.banks)).weights[0]
        used = weights.nonzero().flatten()
        return [
            (site, adapter, adapter.merge({name: bank.detach()[used] for name, bank in banks.items()}, weights[used]))
            for site in self.plan.sites
            for adapter in site.adapters
            for banks in [self.banks.of(site, adapter)]
        ]

    def mark_trained(self, combinations: Wanted) -> None:
        """Say that the bank rows of these combinations have been trained: ``"all"``, one combination, or several."""
        self.router.trained_rows |= self.router.rows(self.select(combinations))

    def network_fingerprint(self) -> str:
        """Give a hash of the network's `state_dict`: names, shapes, dtypes, bytes."""
        return fingerprint(self.network)

    def detach(self) -> nn.Module:
        """Take every hook off and give the network back as it was before `adapt`."""
        self.injection.detach()
        self._before.restore()
        return self.network

    @contextmanager
    def no_adapters(self) -> Iterator[None]:
        """Leave the network for a while exactly as it was before `adapt`, frozen and in eval mode."""
        with self._guard.hold(), self.injection.paused():
            yield

    def locate(self, inputs: Inputs) -> Located:
        """Find out where each site has the rows of a batch; done by itself at the first mixed batch.

        Args:
            inputs: any inputs, as for `forward`.
        """
        filled = self.fill(read(self.modalities, inputs))
        with self._guard.hold():
            self.located = locate(self._observe, filled, OUTPUT)
        return self.located

    def _read(self, inputs: Inputs, present: Tensor | None) -> Batch:
        batch = read(self.modalities, inputs, present)
        self._before.check_modes()
        if self.check_inputs and not torch.compiler.is_compiling():
            check_finite(self.modalities, batch)
        return batch

    def _uniform(self, filled: Filled, code: int, device: torch.device) -> Any:
        served = self.router.substitute(code, self.training)
        self._mark([served])
        if served == self.router.complete:
            return self._plain(filled)
        return self._adapted(filled, self.router.uniform(served, device))

    def _mixed(self, filled: Filled, batch: Batch) -> Any:
        codes = batch.codes(self.modalities)
        served = [self.router.substitute(code, self.training) for code in codes]
        if self.located is None:
            self.located = locate(self._observe, filled, OUTPUT)
            self.injection.check_called(self.located.placements)
        sites = [site.key for site in self.plan.sites]
        if self.located.unknown(sites):
            return self._grouped(filled, served, batch.device)
        if self._groups_are_cheaper(filled, served):
            return self._grouped(filled, served, batch.device)
        self._mark(served)
        return self._adapted(filled, self.router.mixed(served, batch.device, self._placements()))

    def _grouped(self, filled: Filled, served: Sequence[int], device: torch.device) -> Any:
        places = self._placements().get(OUTPUT, ())
        if self.located is not None and OUTPUT in self.located.not_finite:
            self.located = None  # other rows may tell
            raise NotFinite(
                "rows of this batch have different modalities, and the network gives NaN for all of them, whatever "
                "they hold, so it can't be told which rows of its output are whose; pass rows with the same modalities "
                "together to see for which it gives numbers: model.pretrained(inputs) of one combination at a time"
            )
        return run_grouped(lambda part, code: self._uniform(part, code, device), filled, served, places)

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

    def _mark(self, codes: Iterable[int]) -> None:
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            incomplete = [self.modalities.from_code(code) for code in set(codes) if code != self.router.complete]
            self.router.trained_rows |= self.router.rows(incomplete)

    def _compiled(self, filled: Filled, batch: Batch) -> Any:
        if self.located is None or self.located.unknown([site.key for site in self.plan.sites]):
            raise InputError(
                "a graph with `present` needs to know where rows are inside the network: call the model once with "
                "a mixed batch, or model.locate(inputs), before compiling it"
            )
        present = batch.present.to(batch.device)
        return self._adapted(filled, self.router.dynamic(present, self._placements(), self.training))

    def _placements(self) -> Mapping[str, Sequence[Any]]:
        assert self.located is not None
        return self.located.placements

    def _adapted(self, filled: Filled, route: Route) -> Any:
        output, is_lost = self._run(filled, route)
        if is_lost:  # a kept output was changed in place, as it never was before: now it is known
            output, _ = self._run(filled, route.again())
        if not torch.compiler.is_compiling() and not self._checked:  # in this order: a graph must not depend on it
            self.injection.check_called(route.calls)
            self._checked = True
        return output

    def _run(self, filled: Filled, route: Route) -> tuple[Any, bool]:
        with plain_attention(), self.injection.using(route) as running:
            output = self.call(self.network, self.modalities, filled)
            return output, bool(running.watched) and running.settle(output_tensors(output))

    def _plain(self, filled: Filled) -> Any:
        if torch.compiler.is_compiling():
            return self.call(self.network, self.modalities, filled)
        with self.injection.paused(), self._before.kernels(filled):
            return self.call(self.network, self.modalities, filled)

    def _observe(self, filled: Filled) -> Mapping[str, Sequence[Tensor]]:
        with evaluating(self.network), torch.no_grad(), plain_attention(), self.injection.observing() as observed:
            output = self.call(self.network, self.modalities, filled)
        return observed | {OUTPUT: output_tensors(output)}
