"""`robust.generate`: the network's own `generate`, with the adapter set that is chosen by what is present."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from subsense.errors import InputError
from subsense.modalities import Modalities
from subsense.modalities.calling import Call
from subsense.modalities.inputs import Batch, Filled
from subsense.model.execution import Execution


@dataclass(frozen=True)
class GenerateCall(Call):
    """Call `generate` of a network with the arguments of its forward."""

    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self, network: nn.Module, modalities: Modalities, tensors: Filled, present: Tensor | None = None
    ) -> Any:
        """Generate; a function that calls the network says with what."""
        own: Any = network  # a module's attributes are tensors or modules to a type checker
        return own.generate(**self.keywords(network, modalities, tensors), **self.options)


def generate(execution: Execution, filled: Filled, batch: Batch, training: bool, options: Mapping[str, Any]) -> Any:
    """Generate for a batch, whatever is missing; rows that differ one combination after the other.

    Args:
        execution: runs the network.
        filled: its inputs.
        batch: what each row has.
        training: whether sets may be used that are not trained yet.
        options: of the network's `generate`.

    Returns:
        What the network's `generate` returns. Where rows differ: token ids (row, length), the shorter rows padded at
        their ends.

    Raises:
        InputError: the network doesn't generate, qualities, or rows that differ and more than token ids asked for.
    """
    if not callable(getattr(execution.network, "generate", None)):
        raise InputError(f"generate: {type(execution.network).__name__} has no `generate`; call the model instead")
    if batch.quality is not None:
        raise InputError(
            "generate: expected `present` as bool, but found qualities between 0 and 1; fold them: "
            'subsense.fold(model, {"name": quality, ...}).generate(...)'
        )
    caller = copy.copy(execution)
    facts = {one.name: getattr(execution.call, one.name) for one in fields(Call)}
    caller.call = GenerateCall(**facts, options=options)

    def run(part: Filled, code: int) -> Any:
        return caller.uniform(execution.call.without(execution.modalities, part, code), code, batch.device, training)

    with torch.no_grad():
        if batch.code is not None:
            return run(filled, batch.code)
        codes = batch.codes(execution.modalities)
        groups = {code: [row for row, other in enumerate(codes) if other == code] for code in dict.fromkeys(codes)}
        found = [
            run({name: tuple(one[rows] for one in tensors) for name, tensors in filled.items()}, code)
            for code, rows in groups.items()
        ]
        return _joined(found, list(groups.values()), _padding(execution.network, options))


def _joined(found: Sequence[Any], groups: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Put token ids of groups (row * sequences, length) together, in the order of the rows."""
    if not all(isinstance(one, Tensor) and one.dim() == 2 for one in found):
        raise InputError(
            f"generate: rows of this batch have different modalities, and {type(found[0]).__name__} of several "
            "combinations can't be put together; leave out return_dict_in_generate, or pass rows with the same "
            "modalities together"
        )
    longest = max(one.shape[1] for one in found)
    padded = [nn.functional.pad(one, (0, longest - one.shape[1]), value=padding) for one in found]
    rows = [one.unflatten(0, (len(group), -1)) for one, group in zip(padded, groups, strict=True)]
    order = torch.tensor([row for group in groups for row in group]).argsort()
    return torch.cat(rows)[order.to(found[0].device)].flatten(0, 1)


def _padding(network: nn.Module, options: Mapping[str, Any]) -> int:
    """Give the token that the network's `generate` pads with: its own rule, the pad token or else the end token."""
    config = options.get("generation_config") or getattr(network, "generation_config", None)
    for name in ("pad_token_id", "eos_token_id"):
        given = options.get(name, getattr(config, name, None))
        if given is not None:
            return int(given[0] if isinstance(given, (list, tuple)) else given)
    return 0
