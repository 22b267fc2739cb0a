"""Does a network read what is declared missing, use what is present, and get what its data claim to have?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from subsense.errors import InputError
from subsense.modalities import AxisSpec, Modalities
from subsense.modalities.loaders import moved, split, take
from subsense.model.robust import RobustModel
from subsense.monitoring.audit_data import DataFacts
from subsense.monitoring.audit_probe import Probes
from subsense.monitoring.audit_report import AuditReport, Fault
from subsense.support.modules import device_of, evaluating

CallWithMask = Callable[[nn.Module, Mapping[str, Any], Tensor], Any]
"""``(network, inputs, present) -> output``."""


def audit(
    network: RobustModel | nn.Module,
    loader: Iterable[Any],
    *,
    modalities: Mapping[str, AxisSpec] | Modalities | None = None,
    call: CallWithMask | None = None,
    rows: int = 32,
    seed: int = 0,
) -> AuditReport:
    """Look for leaks, masks that do nothing, ignored sensors, and numbers that pass as data and are none.

    Some rows run again and again, one thing changed each time. What is declared missing is replaced by other rows'
    values, noise, a million times the spread and NaN: a correct network gives the same bits. What is present is
    replaced, or declared missing: a network that uses it gives something else. All rows of the loader are looked at,
    once: which combinations they have, numbers that come again and again far from all others (-9999, 255), rows of
    one value, NaN. Nothing is trained; buffers are put back after every run.

    Args:
        network: an adapted one, in eval mode meanwhile; or any other that takes a mask, in the mode it is in.
        loader: batches ``(inputs, target)`` or the inputs alone, as for `subsense.train`; targets aren't read.
        modalities: those of a network that isn't adapted, as for `subsense.adapt`.
        call: how such a network is called, ``lambda network, inputs, present: ...``; by default
            ``network(**inputs, present=present)``. `inputs` hold what is missing, too: not to read it is its task.
        rows: how many rows run through the network, complete ones where the data have them.
        seed: of what is drawn.

    Returns:
        A report that prints as one page; `AuditReport.leaks` are the faults that make `subsense audit` fail.

    Raises:
        InputError: no row at all, or a network that isn't adapted without `modalities`.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Careless(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right, present):
    ...         return self.a(left) * present[:, :1] + self.b(right)  # the mask of the right one is forgotten
    >>> batch = {"left": torch.randn(8, 4), "right": torch.randn(8, 6)}
    >>> report = ss.audit(Careless().eval(), [batch], modalities={"left": "4", "right": "6"})
    >>> [fault.modality for fault in report.leaks], [fault.modality for fault in report.idle]
    (['left', 'right'], ['right'])
    """
    declared = network.modalities if isinstance(network, RobustModel) else _declared(network, modalities)
    facts, sample, has = _look(declared, loader, rows)
    run, held = _runner(network, call)
    inputs = moved(sample, device_of(network))
    with held:
        probes = Probes(declared, inputs, has, run, _inner(network), seed)
        tried = [probes.probe(name, facts.num_having(name) / facts.num_rows) for name in declared]
        statistics = list(probes.statistics())
    faults: list[Fault] = [fault for _, found in tried for fault in found]
    return AuditReport(
        network=type(_inner(network)).__name__,
        num_rows=facts.num_rows,
        num_complete=facts.num_complete,
        num_probed=len(has),
        combinations=facts.combinations,
        probes=tuple(probe for probe, _ in tried),
        faults=(*faults, *statistics, *facts.faults()),
    )


def _declared(network: nn.Module, modalities: Mapping[str, AxisSpec] | Modalities | None) -> Modalities:
    if modalities is None:
        raise InputError(
            f"audit: {type(network).__name__} is not adapted, so its inputs aren't known; say modalities={{name: axes}}"
        )
    return modalities if isinstance(modalities, Modalities) else Modalities(modalities)


def _runner(
    network: RobustModel | nn.Module, call: CallWithMask | None
) -> tuple[Callable[[Mapping[str, Any], Tensor], Any], AbstractContextManager[None]]:
    if isinstance(network, RobustModel):
        return network, evaluating(network)
    return partial(call or _with_keywords, network), nullcontext()


def _with_keywords(network: nn.Module, inputs: Mapping[str, Any], present: Tensor) -> Any:
    return network(**inputs, present=present.to(device_of(network)))


def _inner(network: RobustModel | nn.Module) -> nn.Module:
    return network.network if isinstance(network, RobustModel) else network


def _look(modalities: Modalities, loader: Iterable[Any], rows: int) -> tuple[DataFacts, dict[str, Any], Tensor]:
    """Look at all batches, and keep some rows: complete ones, or else those of the first batch."""
    facts, kept, first = DataFacts(modalities), _Kept(rows), None
    for batch in loader:
        inputs = split(batch)[0]
        has = facts.update(inputs)
        values = {name: value for name, value in inputs.items() if name in modalities and value is not None}
        kept.add(values, has.all(1).nonzero().flatten(), len(has))
        if first is None:
            some = has.any(1).nonzero().flatten()[:rows]
            first = dict(take(values, some, len(has), "inputs")), has[some]
    if first is None:
        raise InputError("loader: expected at least one batch, but found none")
    if kept.num_rows > 1:
        return facts, kept.inputs, torch.ones(kept.num_rows, len(modalities), dtype=torch.bool)
    return facts, first[0], first[1]


class _Kept:
    """Keep the first complete rows, of batches of one shape."""

    def __init__(self, most: int) -> None:
        self.most, self.num_rows = most, 0
        self.inputs: dict[str, Any] = {}

    def add(self, values: Mapping[str, Any], complete: Tensor, count: int) -> None:
        chosen = complete[: self.most - self.num_rows]
        if not len(chosen):
            return
        some = take(dict(values), chosen, count, "inputs")
        if not self.num_rows:
            self.inputs, self.num_rows = some, len(chosen)
        elif _shapes(self.inputs) == _shapes(some):
            self.inputs, self.num_rows = _joined(self.inputs, some), self.num_rows + len(chosen)


def _shapes(values: Mapping[str, Any]) -> Any:
    return {name: _shapes(value) if isinstance(value, Mapping) else value.shape[1:] for name, value in values.items()}


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _joined(value, other[name]) if isinstance(value, Mapping) else torch.cat([value, other[name]])
        for name, value in one.items()
    }
