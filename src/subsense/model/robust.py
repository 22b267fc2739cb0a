"""RobustModel: fill what is missing, choose the adapter sets, call the frozen network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from subsense.injection.banks import Banks
from subsense.injection.forward_pass import Visitor
from subsense.injection.hooks import Injection
from subsense.injection.planning import Plan
from subsense.injection.saved_outputs import SavedOutputs
from subsense.injection.wrapped import check_splitting
from subsense.modalities import Combination, CombinationLike, Modalities
from subsense.modalities.calling import Call, gather
from subsense.modalities.declaration import Wanted
from subsense.modalities.filling import Filling
from subsense.modalities.inputs import Batch, Filled, Inputs, check_finite, check_not_empty, read
from subsense.modalities.masks import check_masks
from subsense.model.adapter_state import (
    EXTRA,
    AdapterRow,
    adapter_set,
    load_adapter_state,
    restore_training_state,
    training_state,
    weights_for,
)
from subsense.model.execution import Execution
from subsense.model.frozen import TrainedOn
from subsense.routing.locate import Located
from subsense.routing.router import Router
from subsense.support.modules import device_of

if TYPE_CHECKING:
    from subsense.model.confidence import Confidence, Prediction
    from subsense.model.filled import FilledNetwork
    from subsense.model.watching.asked import Present
    from subsense.model.watching.watch import Watch


class RobustModel(nn.Module):
    """Be a frozen network with adapter sets that are chosen by what is present. Made by `adapt`.

    Attributes:
        network: the user's network; always in eval mode and frozen while adapted.
        plan: its sites; printing it gives a table.
        fill, banks: what stands in for missing inputs; the trained parameters.
        check_inputs: whether NaN, infinity, axes of no size and masks that hide everything are refused.
        monitor: what ``present="auto"`` asks; None where no `subsense.Monitor` learned anything.
        confidence: how far outputs can be trusted, as `subsense.confidence` found; None before.
    """

    def __init__(self, network: nn.Module, plan: Plan, banks: Banks, fill: Filling,
                 router: Router, injection: Injection, call: Call) -> None:  # fmt: skip
        super().__init__()
        self.plan, self.router, self.injection, self.call = plan, router, injection, call
        self.execution = Execution(network, plan, router, injection, call)
        self.network, self.banks, self.fill = network.eval().requires_grad_(False), banks, fill.to(device_of(banks))
        self.check_inputs, self.confidence = True, cast("Confidence | None", None)
        self.monitor, self.trained_on = cast("Watch | None", None), TrainedOn(self.network, self.network_fingerprint)

    @property
    def modalities(self) -> Modalities:
        """Give the declared modalities."""
        return self.fill.modalities

    @property
    def sharing(self) -> str:
        """Give what the bank rows are: ``"independent"`` or ``"additive"``."""
        return self.router.sharing

    @property
    def located(self) -> Located | None:
        """Give where each site has the rows of a batch; None until a mixed batch, or `locate`, asked."""
        return self.execution.rows.located

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
        """Give how training spends memory: ``"normal"``, or ``"low"``, ``"checkpoint"``; it can be set, see `adapt`."""
        return self.injection.saved.memory

    @memory.setter
    def memory(self, memory: str) -> None:
        self.injection.spend(SavedOutputs(memory))

    def forward(self, inputs: Inputs | Tensor | None = None, present: Present = None, **others: Any) -> Any:
        """Give the network's own output, whatever is missing.

        Args:
            inputs: modality -> tensor (batch, *axes); a modality that is absent or None is missing in every row. An
                entry ``"present"`` is used where the argument is None. With ``call="channels"`` also the stacked
                tensor, all modalities present.
            others: the same as keywords, ``robust(**inputs)``, by the names of modalities or of their arguments.
            present: which modalities each row has, bool (batch, modality); or how good they are, float in [0, 1]: 0 is
                missing, and what is passed for it is never read. ``"auto"``: as the monitor finds, each row for itself;
                one of the monitor's streams: with the rows before in mind.

        Raises:
            InputError: inputs or `present` that don't fit the declaration.
            UntrainedCombination: nothing was trained for what is present (in eval mode, policy ``"error"``).
            LayerNeverCalled: a site that the network never reaches.
        """
        batch = _read(self, gather(self.modalities, self.call, inputs, others), present)
        with self.execution.hold():
            output = self.execution.run(self.fill(batch), batch, self.training)
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _with_gradients(self.execution, output, self.adapter_parameters().values())
        return output

    def generate(self, inputs: Inputs, present: Present = None, **options: Any) -> Any:
        """Generate as the network does, with the set of what is present; options are those of its own `generate`."""
        batch = _read(self, inputs, present)
        with self.execution.hold():
            return _generate(self.execution, self.fill(batch), batch, self.training, options)

    def predict(self, inputs: Inputs, present: Present = None, **options: Any) -> Prediction:
        """Say also how far the answer can be trusted, see `subsense.confidence`; ``select=`` takes scores out of it."""
        return _predict(self, inputs, present, **options)

    def pretrained(self, inputs: Inputs, present: Present = None) -> Any:
        """Give the frozen network's output on filled inputs, no adapter acting; arguments as for `forward`."""
        batch = _read(self, inputs, present)
        with self.execution.hold():
            return self.execution.pretrained(self.fill(batch), batch)

    def features(self, inputs: Inputs, *, adapted: bool = True) -> dict[str, list[Tensor]]:
        """Give what every site gives on the way to the output, without gradients.

        Args:
            inputs: as for `forward`; all rows lack the same modalities.
            adapted: as the adapters change it; otherwise what the frozen network has there on filled inputs.

        Returns:
            Site -> its outputs, one for each time the network calls it.

        Raises:
            InputError: rows that lack different modalities.
            UntrainedCombination: as for `forward`.
        """
        batch = read(self.modalities, inputs)
        with self.execution.hold():
            return self.execution.features(self.fill(batch), batch.code, adapted, self.training)

    def visit(self, batch: Batch, visitor: Visitor) -> Any:
        """Run the network on a checked batch, without gradients; a visitor says what each site gives, in turn."""
        return self.execution.visit(self.fill(batch), visitor, batch.present)

    def filled(self, network: nn.Module) -> FilledNetwork:
        """Put another network behind the same fill and the same call, without adapters: a baseline."""
        return _filled(network, self.fill, self.call)

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
        """Give what is trained: banks, ``site:adapter:parameter`` (bank row, ...), and ``fill.modality.part``."""
        return {name: one for name, one in self._adapter_tensors().items() if isinstance(one, nn.Parameter)}

    def select(self, combinations: Wanted) -> tuple[Combination, ...]:
        """Give those of the combinations with adapter sets that are asked for, see `Router.select`."""
        return self.router.select(combinations)

    def bank_rows(self, combinations: Wanted) -> Tensor:
        """Give which bank rows the combinations use: bool (bank row,)."""
        used = self.router.rows(self.select(combinations))
        return torch.tensor([row in used for row in range(len(self.router.row_names))])

    def adapter_set(self, combination: CombinationLike | Mapping[str, float]) -> list[AdapterRow]:
        """Give one parameter set for each adapter at each site, by combination or quality; none where all is there."""
        return adapter_set(self.plan, self.banks, weights_for(self.router, combination, self.banks))

    def mark_trained(self, combinations: Wanted) -> None:
        """Say that the bank rows of these combinations have been trained: ``"all"``, one combination, or several."""
        self.router.trained_rows |= self.router.rows(self.select(combinations))
        self.trained_on.note()

    def get_extra_state(self) -> Tensor:
        """Give which bank rows are trained, and the policy, for `state_dict`."""
        return training_state(self.router)

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        restore_training_state(self.router, state)
        self.trained_on.forget()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        state.setdefault(prefix + EXTRA, self.get_extra_state())  # that of 0.1.0 doesn't say what is trained
        super()._load_from_state_dict(state, prefix, *rest)

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """Give what `state_dict` has, without the network: adapter parameters, stand-ins, which sets are trained."""
        return {name: one.detach() for name, one in self._adapter_tensors().items()} | {EXTRA: self.get_extra_state()}

    def load_adapter_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `adapter_state_dict` gave; `CheckpointError`, and nothing changed, where it doesn't fit."""
        load_adapter_state(self.router, self._adapter_tensors(), state)
        self.confidence = None

    def _adapter_tensors(self) -> dict[str, Tensor]:
        return self.banks.named() | self.fill.stand_ins()

    def network_fingerprint(self) -> str:
        """Give a hash of the network's `state_dict`: names, shapes, dtypes, bytes."""
        return _fingerprint(self.network)

    def detach(self) -> nn.Module:
        """Take every hook off and give the network back as it was before `adapt`."""
        self.injection.detach()
        self.execution.before.restore()
        return self.network

    def no_adapters(self) -> AbstractContextManager[None]:
        """Leave the network for a while exactly as it was before `adapt`, frozen and in eval mode."""
        return self.execution.no_adapters()

    def locate(self, inputs: Inputs) -> Located:
        """Find out from any inputs where each site has the rows of a batch; done by itself at the first mixed batch."""
        filled = self.fill(read(self.modalities, inputs))
        with self.execution.hold():
            return self.execution.rows.locate(filled)


def _read(robust: RobustModel, inputs: Inputs, present: Present) -> Batch:
    if present is not None and not isinstance(present, Tensor):
        present = _found_present(robust, inputs, present)
    batch = read(robust.modalities, inputs, present)
    robust.execution.before.check_modes()
    if not torch.compiler.is_compiling():
        check_splitting(robust)
    if robust.check_inputs and not torch.compiler.is_compiling():
        check_not_empty(robust.modalities, batch)
        check_finite(robust.modalities, batch, robust.fill.masks)
        check_masks(robust.modalities, robust.fill.masks, batch)
    return batch


# What a first call doesn't need is imported when it is used.


def _with_gradients(execution: Execution, output: Any, parameters: Iterable[nn.Parameter]) -> Any:
    from subsense.model.complete import with_zero_gradients

    if execution.splitting is not None:
        execution.splitting.average(parameters)
    return with_zero_gradients(output, parameters)


def _found_present(robust: RobustModel, inputs: Inputs, asked: Present) -> Tensor:
    from subsense.model.watching.asked import found_present

    return found_present(robust.modalities, robust.monitor, inputs, asked)


def _generate(execution: Execution, filled: Filled, batch: Batch, training: bool, options: Mapping[str, Any]) -> Any:
    from subsense.model.generate import generate

    return generate(execution, filled, batch, training, options)


def _predict(robust: RobustModel, inputs: Inputs, present: Present, **options: Any) -> Prediction:
    from subsense.model.predict import predict

    return predict(robust, _read(robust, inputs, present), **options)


def _filled(network: nn.Module, fill: Filling, call: Call) -> FilledNetwork:
    from subsense.model.filled import FilledNetwork

    return FilledNetwork(network, fill, call)


def _fingerprint(network: nn.Module) -> str:
    from subsense.model.fingerprint import fingerprint

    return fingerprint(network)
