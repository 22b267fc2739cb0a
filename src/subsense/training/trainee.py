"""What a run trains: the adapters around a frozen network, or all weights of a network. One loop serves both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from subsense.adapters.common import is_common
from subsense.errors import InputError
from subsense.injection.banks import bank_names
from subsense.modalities import Combination, Modalities
from subsense.modalities.filling import Filling
from subsense.modalities.inputs import Filled, check_finite, read
from subsense.modalities.loaders import num_rows
from subsense.modalities.masks import check_masks
from subsense.model.filled import FilledNetwork
from subsense.model.robust import RobustModel
from subsense.routing.groups import output_tensors
from subsense.support.modules import evaluating

Fixed = Mapping[str, Tensor]
"""Parameter's name -> bool, along its first axes: what must not move."""


class Trainee(Protocol):
    """Say what a run trains; the module is called as ``module(inputs, present)``."""

    @property
    def module(self) -> nn.Module:
        """Give what is called, and holds everything."""

    @property
    def modalities(self) -> Modalities:
        """Give the declared modalities."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Give what the optimiser moves."""

    def buffers(self) -> Mapping[str, Tensor]:
        """Give what else changes while training."""

    def fixed(self, combinations: Sequence[Combination]) -> Fixed:
        """Give what must not move while these combinations train."""

    def train(self) -> None:
        """Make ready for a training step."""

    def measure(self) -> None:
        """Make ready for a deterministic output, of any combination that is being trained."""

    def why_not_finite(self, combination: Combination, inputs: Mapping[str, Any], present: Tensor) -> str:
        """Say where NaN or infinity for rows of a combination may come from; empty where nothing points anywhere."""

    def apart(self) -> str:
        """Say how combinations can be trained whose rows can't be in one batch."""

    def rows_of(self, combination: Combination) -> frozenset[int]:
        """Give the bank rows that a combination uses; none where the parameters are no banks."""

    def banks(self) -> Mapping[str, nn.Parameter]:
        """Give those of the parameters that are banks."""


class Adapters:
    """Train the adapters of a robust model; the network stays in eval mode, but for its Dropout layers if asked for."""

    def __init__(self, robust: RobustModel, dropout: bool) -> None:
        self.module = robust
        self.modalities = robust.modalities
        self.parameters = robust.adapter_parameters()
        self._dropouts = dropout_layers(robust.network) if dropout else []

    def buffers(self) -> Mapping[str, Tensor]:
        """Give nothing: a frozen network's buffers stay."""
        return {}

    def fixed(self, combinations: Sequence[Combination]) -> Fixed:
        """Give the bank rows that these combinations don't use, and learned fills that they may not move.

        A stacked parameter gives the rows that nothing selected a gradient of zero, not None, and AdamW would move them
        all the same, by weight decay and by momentum.
        """
        unused = ~self.module.bank_rows(combinations)
        banks = dict.fromkeys(self._own_banks(), unused) if unused.any() else {}
        kept = self._kept_fills(combinations)
        stand_ins = self.module.fill.names()
        fills = {name: torch.ones_like(value, dtype=torch.bool) for name, value in self.parameters.items()
                 if name in stand_ins and stand_ins[name][0] in kept}  # fmt: skip
        return banks | fills

    def _own_banks(self) -> list[str]:
        """Name the banks that have a row for each combination or modality, and not one for all."""
        return [name for name, (_, adapter, _) in bank_names(self.module.plan).items() if not is_common(adapter)]

    def _kept_fills(self, combinations: Sequence[Combination]) -> set[str]:
        """Give modalities which none of these lacks, or which a set that was trained before has a stand-in for."""
        others = set(self.module.trained) - set(combinations) if self.module.sharing == "independent" else set()
        return {name for name in self.modalities
                if all(name in one for one in combinations) or any(name not in one for one in others)}  # fmt: skip

    def train(self) -> None:
        """Switch the adapters, and the Dropout layers that were asked for, to training."""
        self.module.train()
        for layer in self._dropouts:
            layer.train()

    def measure(self) -> None:
        """Switch Dropout off. Adapters stay in train mode, in which a set may be used that is not finished."""
        self.module.train()

    def apart(self) -> str:
        """Say that one combination after the other can be trained, and what else of the model that needs."""
        needs = ["sharing='independent'"] if self.module.sharing != "independent" else []
        if self.module.fill.names().keys() & self.parameters.keys():
            needs.append("a fill that isn't learned")
        adapted = f", after adapt with {' and '.join(needs)}" if needs else ""
        return f"train one combination after the other, strategy='separate'{adapted}"

    def rows_of(self, combination: Combination) -> frozenset[int]:
        """Give the bank rows that a combination uses."""
        return self.module.router.rows([combination])

    def banks(self) -> Mapping[str, nn.Parameter]:
        """Give all parameters but learned fills."""
        fills = self.module.fill.names()
        return {name: one for name, one in self.parameters.items() if name not in fills}

    def why_not_finite(self, combination: Combination, inputs: Mapping[str, Any], present: Tensor) -> str:
        """Look at the data first, then at what the frozen network gives without adapters."""
        if found := _not_finite_in(self.module.fill, inputs, present):
            return found
        outputs = output_tensors(self.module.pretrained(_without_present(inputs), present))
        if all(bool(one.isfinite().all()) for one in outputs):
            return ""
        lacks = ", ".join(
            f"{name} ({self.module.fill.kinds[name]})" for name in self.modalities if name not in combination
        )
        batch = read(self.modalities, _without_present(inputs), present)
        filled = self.module.fill(batch)
        first, hidden = (
            self._first_not_finite(filled, self.modalities.code(combination)),
            self.module.fill.hidden(filled),
        )
        why = hidden or "a mask that hides all, a mean or a norm over zeros"
        return (
            f"The network gives NaN or infinity there without any adapter{first}, though the data are finite. The "
            f"likely cause is what stands in for what is missing, {lacks}: {why}. "
            "Choose another with adapt(fill=...), such as subsense.Constant for a mask, or leave the combination out"
        )

    def _first_not_finite(self, filled: Filled, code: int) -> str:
        """Name the first site on the way to the output that gives NaN or infinity."""
        features = self.module.execution.features(filled, code, adapted=False, training=True)
        found = (site for site, calls in features.items() for one in calls if not bool(one.isfinite().all()))
        site = next(found, None)
        return "" if site is None else f" (first at {site})"


class Weights:
    """Train all weights of a network that is called on filled inputs, in train mode, BatchNorm included."""

    def __init__(self, filled: FilledNetwork) -> None:
        self.module = filled
        self.modalities = filled.modalities
        self.parameters = dict(filled.network.named_parameters())

    def buffers(self) -> Mapping[str, Tensor]:
        """Give the network's buffers."""
        return dict(self.module.network.named_buffers())

    def fixed(self, combinations: Sequence[Combination]) -> Fixed:
        """Give nothing: all weights train."""
        return {}

    def train(self) -> None:
        """Switch the network to training."""
        self.module.train()

    def measure(self) -> None:
        """Switch the network to inference."""
        self.module.eval()

    def apart(self) -> str:
        """Say that a network can be trained for each combination."""
        return "train one network for each combination (subsense.train_dedicated)"

    def rows_of(self, combination: Combination) -> frozenset[int]:
        """Give none: all combinations train the same weights."""
        return frozenset()

    def banks(self) -> Mapping[str, nn.Parameter]:
        """Give none."""
        return {}

    def why_not_finite(self, combination: Combination, inputs: Mapping[str, Any], present: Tensor) -> str:
        """Look at the data alone: all weights move."""
        return _not_finite_in(self.module.fill, inputs, present)


def _not_finite_in(fill: Filling, inputs: Mapping[str, Any], present: Tensor) -> str:
    batch = read(fill.modalities, _without_present(inputs), present)
    try:
        check_finite(fill.modalities, batch, fill.masks)
        check_masks(fill.modalities, fill.masks, batch)
    except InputError as error:
        return str(error)
    return ""


def _without_present(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "present"}


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """Give the Dropout layers of a network."""
    return [layer for layer in network.modules() if isinstance(layer, _DropoutNd)]


def teacher_of(robust: RobustModel) -> Any:
    """Give the network as a teacher: inputs -> its own output with every modality present, without dropout."""
    present = robust.modalities.present(robust.modalities.complete)

    def teach(inputs: Mapping[str, Any]) -> Any:
        with evaluating(robust.network):
            return robust.pretrained(inputs, present.expand(num_rows(inputs), -1))

    return teach
