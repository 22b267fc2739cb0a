"""Find where a norm makes rounding as large as a signal: over the constant maps that a stand-in gives.

A norm with statistics of a row's own divides by their spread. Over a constant map that is nothing but rounding and the
norm's epsilon, so every such layer makes rounding 1 / sqrt(1e-5), three hundred times, as large. After two or three of
them a row depends on how its sums were ordered: on the batch that it is in, the machine, the export.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subsense.modalities import Modalities
from subsense.modalities.calling import Call
from subsense.modalities.inputs import Batch, Filled
from subsense.model.statistics import Watch, makes_statistics, values_of
from subsense.routing.groups import output_tensors

NORM_OFF, OUTPUT_OFF = 1e-1, 1e-3
"""How far a norm's values (in units of its own) and the network's (of the greatest) may be off by rounding."""
ROWS = 8
MOST = 2**28
"""Numbers that a network may have to be copied in float64, 2 GiB."""
CURES = (
    "What cures it: a fill that isn't constant (fill={{{name!r}: subsense.Constant(a typical input)}}), "
    "padding_mode='reflect' in the convolutions before, which keeps what is constant constant, or float64 (the "
    "network's double(), ':float64' in the declaration)"
)
ONCE = "; subsense.fold(..., drop_absent=True) computes it once, for one row, so that it no longer depends on the batch"


@dataclass(frozen=True)
class Amplified:
    """Hold what rounding became.

    Attributes:
        sites: path of a norm -> (class, its greatest value, the greatest in float64), in the order of calls; values are
            None where float64 could not be run.
        between: how far the output for a row is from that in a batch of `ROWS`, as a share of the greatest.
        precise: how far it is from float64's; None where that could not be run.
        absent: the modalities that something stands in for.
    """

    sites: Mapping[str, tuple[str, float | None, float | None]]
    between: float
    precise: float | None
    absent: Sequence[str]

    def __str__(self) -> str:
        names = list(self.sites)
        kind, found, exact = self.sites[names[0]]
        others = f", and so do {', '.join(names[1:4])}" if names[1:] else ""
        others += f" and {len(names) - 4} more" if names[4:] else ""
        values = "" if found is None else f" (values up to {found:.1e}, in float64 {exact:.1e})"
        precise = "" if self.precise is None else f", and from float64's by {self.precise:.1e}"
        return (
            f"{names[0]} ({kind}) makes rounding as large as a signal{values}{others}: where "
            f"{', '.join(self.absent)} is missing they get a map that is constant. The frozen network's output for a "
            f"row differs by {self.between:.1e} of the greatest between batches of 1 and {ROWS} rows{precise}"
        )

    @property
    def cures(self) -> str:
        """Say what takes the cause away."""
        return CURES.format(name=self.absent[0])


class Rounding:
    """Look once for each combination whether rounding becomes a signal; warn once.

    The first call of a combination notes what norms get, which costs no forward. Only where that is suspicious a row
    runs again: alone, in a larger batch, and in float64.

    Args:
        network: the frozen network.
        call: how it is called.
        modalities: the declared ones.
        plain: runs it as it is, without adapters.
        paused: takes adapters off for a while.

    Attributes:
        norms: path -> norm that makes statistics of a row's own.
        found: what was warned of; None where there was nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        call: Call,
        modalities: Modalities,
        plain: Callable[[Filled, Tensor | None], Any],
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._network, self._call, self._modalities, self._plain = network, call, modalities, plain
        self._paused = paused
        self.norms = {path: module for path, module in network.named_modules() if makes_statistics(module)}
        self.found: Amplified | None = None
        self._seen: set[int] = set()

    @contextmanager
    def watching(self, filled: Filled, batch: Batch) -> Iterator[None]:
        """Watch a call's norms where it has rows of combinations not seen before, and warn of what they do."""
        new = self._new(batch)
        if not new:
            yield
            return
        with Watch(self.norms, batch.num_rows).on() as watch:
            yield
        self._seen |= new
        row = watch.suspicious([code in new for code in batch.codes(self._modalities)])
        self.found = None if row is None else self.compare(filled, batch, row, watch.paths)
        if self.found is not None:
            warnings.warn(f"{self.found}. {self.found.cures}{ONCE}", stacklevel=5)

    def explain(self, filled: Filled, batch: Batch) -> str:
        """Say in sentences what rounding does to a batch's first row; empty where it does nothing."""
        found = self.compare(filled, batch, 0, list(self.norms)) if self.norms else None
        return "" if found is None else f". The cause is rounding: {found}. {found.cures}"

    def _new(self, batch: Batch) -> set[int]:
        """Give the incomplete combinations of a batch that were not seen before."""
        if not self.norms or self.found is not None or torch.compiler.is_compiling():
            return set()
        codes = batch.codes(self._modalities) if batch.code is None else [batch.code]
        return set(codes) - self._seen - {2 ** len(self._modalities) - 1}

    def compare(self, filled: Filled, batch: Batch, row: int, paths: Sequence[str]) -> Amplified | None:
        """Run a row of the frozen network alone, in a larger batch, and in float64; None where they agree or can't run.

        Args:
            filled: the filled batch.
            batch: the batch, which says what its rows lack.
            row: which row.
            paths: the norms that got a constant map, named where float64 could not be run.
        """
        code = batch.codes(self._modalities)[row]
        single = self._call.without(self._modalities, _rows(filled, [row]), code)
        many = _rows(single, [0] * ROWS)
        try:
            with torch.no_grad():
                with values_of(self.norms) as values:
                    output = output_tensors(self._plain(single, self._told(single, code)))
                between = _farthest(output, output_tensors(self._plain(many, self._told(many, code))))
                exact = self._in_double(single, code)
        except RuntimeError:  # a network that was written for one size of batch
            return None
        least = 64 * max((_eps(tensor) for tensors in single.values() for tensor in tensors), default=0.0)
        apart = self._apart(values, exact[0], max(NORM_OFF, least)) if exact else {}
        precise = _farthest(output, exact[1]) if exact else None
        if not apart and max(between, precise or 0.0) <= max(OUTPUT_OFF, least):
            return None
        sites = apart or {path: (type(norm).__name__, None, None) for path, norm in self.norms.items() if path in paths}
        absent = [name for bit, name in enumerate(self._modalities) if not code >> bit & 1]
        return Amplified(sites, between, precise, absent)

    def _told(self, filled: Filled, code: int) -> Tensor | None:
        return self._call.rows(self._modalities, filled, code)

    def _in_double(self, filled: Filled, code: int) -> tuple[Mapping[str, Tensor], list[Tensor]] | None:
        """Run a copy of the network in float64; None where it is too large, or is written for one precision."""
        if sum(one.numel() for one in self._network.parameters()) > MOST:
            return None
        try:
            with self._paused():
                network = copy.deepcopy(self._network).double()
            wide = {name: tuple(_double(tensor) for tensor in tensors) for name, tensors in filled.items()}
            with values_of({path: network.get_submodule(path) for path in self.norms}) as values:
                output = self._call(network, self._modalities, wide, self._told(wide, code))
        except RuntimeError:  # it makes tensors of its own precision
            return None
        return values, output_tensors(output)

    def _apart(
        self, values: Mapping[str, Tensor], exact: Mapping[str, Tensor], least: float
    ) -> dict[str, tuple[str, float | None, float | None]]:
        """Give the norms whose values are further from float64's than `least`, in units of the norm."""
        found: dict[str, tuple[str, float | None, float | None]] = {}
        for path, one in values.items():
            other = exact.get(path)
            if other is None or other.shape != one.shape:
                continue
            weight = getattr(self.norms[path], "weight", None)
            unit = max(float(other.abs().max()), 1.0 if weight is None else float(weight.abs().max()))
            if float((one - other).abs().max()) > least * unit:
                found[path] = (type(self.norms[path]).__name__, float(one.abs().max()), float(other.abs().max()))
        return found


def _rows(filled: Filled, rows: Sequence[int]) -> Filled:
    return {name: tuple(tensor[list(rows)] for tensor in tensors) for name, tensors in filled.items()}


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _eps(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def _farthest(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Give the greatest difference of the first rows of outputs, as a share of the greatest value."""
    return max((_off(one.double(), other.double()) for one, other in zip(some, others, strict=False)), default=0.0)


def _off(one: Tensor, other: Tensor) -> float:
    """Give how far a row's output is from that of a batch's first row; 0 where their shapes don't say which that is."""
    if one.dim() != other.dim() or not one.dim() or not one.numel() or one.shape[1:] != other.shape[1:]:
        return 0.0
    other = other[: len(one)]
    difference = (one - other).abs().masked_fill(one == other, 0)
    return float(difference.nan_to_num(0.0).max() / other.abs().nan_to_num(0.0).max().clamp(min=1e-12))
