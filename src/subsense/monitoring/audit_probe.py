"""Run a network on some rows again and again, one thing changed each time, and see how far its output moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from subsense.errors import SubsenseError, UntrainedCombination
from subsense.modalities import Modalities
from subsense.monitoring.audit_report import Fault, Probe
from subsense.routing.groups import output_tensors

Run = Callable[[Mapping[str, Any], Tensor], Any]
"""Inputs and `present` -> the network's output."""
STILL = 1e-6
"""In units of the output's spread: below it, a network doesn't react."""
TOGETHER = 1e-3
"""In the same units: from here on, other rows change what a network says of a row; below it numbers are rounded."""
MOST_MASKS = 2


class Probes:
    """Try one modality after the other on the same rows.

    Args:
        modalities: the declared modalities.
        inputs: the rows.
        has: what each row has, bool (row, modality).
        run: calls the network.
        module: whose buffers and modes every run starts from.
        seed: of what is drawn, by the probes and by the network.
    """

    def __init__(
        self, modalities: Modalities, inputs: Mapping[str, Any], has: Tensor, run: Run, module: nn.Module, seed: int
    ) -> None:
        self.modalities, self.inputs, self.has, self.seed = modalities, dict(inputs), has, seed
        self._run, self._module = run, module
        self.refused: dict[str, str] = {}

    def probe(self, modality: str, share: float) -> tuple[Probe, list[Fault]]:
        """Try one modality."""
        column = self.modalities.names.index(modality)
        if not self.has[:, column].any():
            return Probe(modality, share), [Fault("not checked", modality, f"{modality}: in none of the rows")]
        leak, how = self._leak(modality, column)
        reaction, mask = self._reaction(modality, column), self._mask(column)
        faults = list(_faults(modality, leak, how, reaction, mask)) + self._untried(modality, leak, reaction, mask)
        return Probe(modality, share, leak, reaction, mask), faults

    def statistics(self) -> Iterator[Fault]:
        """Tell layers that compute over the batch, and rows whose output others change by what they lack."""
        for path, layer in self._module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
                why = "is in train mode: call eval()" if layer.running_mean is not None else "keeps no running mean"
                text = f"{path} ({type(layer).__name__}) takes mean and variance over the batch, stand-ins among them"
                yield Fault("statistics", "", f"{text}; it {why}")
        half = len(self.has) // 2
        for column, modality in enumerate(self.modalities):
            present = self.has.clone()
            present[:half, column] = False
            if half and present.any(1).all():
                moved = self._moved(
                    self._try(self.inputs, self.has), self._try(self.inputs, present), slice(half, None)
                )
                if moved is not None and moved > TOGETHER:
                    text = (
                        f"rows move by {moved:.2g} when other rows of the batch lack {modality}: statistics are taken "
                    )
                    yield Fault("statistics", modality, text + "over the batch, filled rows among them")

    def _leak(self, modality: str, column: int) -> tuple[float | None, str]:
        """Change what is declared missing, in every way; give the farthest move and what made it."""
        found: tuple[float | None, str] = None, ""
        for words, present in self._masks(column):
            lacking = ~present[:, column]
            before = self._try(self.inputs, present)
            for how, changed in self._changes(modality, lacking, ("other rows", "noise", "huge", "NaN")):
                moved = self._moved(before, self._try(changed, present, must=False), slice(None))
                if moved is not None and (found[0] is None or moved > found[0]):
                    found = moved, f"{words}, its values replaced by {how}"
        return found

    def _reaction(self, modality: str, column: int) -> float | None:
        has, before = self.has[:, column], self._try(self.inputs, self.has)
        moves = [
            self._moved(before, self._try(changed, self.has, must=False), has)
            for _, changed in self._changes(modality, has, ("other rows", "noise"))
        ]
        return max((moved for moved in moves if moved is not None), default=None)

    def _mask(self, column: int) -> float | None:
        present = self.has.clone()
        present[:, column] = False
        rows = self.has[:, column] & present.any(1)
        present[~present.any(1)] = self.has[~present.any(1)]
        return self._moved(self._try(self.inputs, self.has), self._try(self.inputs, present), rows)

    def _masks(self, column: int) -> Iterator[tuple[str, Tensor]]:
        """Give masks in which some rows lack a modality: all that can, then each row a combination of its own."""
        alone = self.has.clone()
        alone[:, column] = False
        alone[~alone.any(1)] = self.has[~alone.any(1)]
        masks = [("every row lacks it", alone)]
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(MOST_MASKS):
            drawn = self.has & (torch.rand(self.has.shape, generator=generator) < 0.5)
            drawn[~drawn.any(1)] = alone[~drawn.any(1)]
            masks.append(("each row has a combination of its own", drawn))
        yield from ((words, present) for words, present in masks if not present[:, column].all())

    def _changes(self, modality: str, rows: Tensor, ways: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the inputs with a modality's values replaced in some rows, in each of the ways."""
        value = self.inputs[modality]
        parts = value if isinstance(value, Mapping) else {"": value}
        for number, way in enumerate(ways):
            generator = torch.Generator().manual_seed(self.seed + number)
            changed = {name: _replaced(part, rows, way, generator) for name, part in parts.items()}
            if any(one is not parts[name] for name, one in changed.items()):
                yield way, self.inputs | {modality: changed if isinstance(value, Mapping) else changed[""]}

    def _try(self, inputs: Mapping[str, Any], present: Tensor, must: bool = True) -> Any:
        """Run the network from the same state as ever; a `SubsenseError` of a change is a refusal, any other a leak."""
        try:
            with _as_before(self._module, self.seed), torch.no_grad():
                return [one.detach().clone() for one in output_tensors(self._run(inputs, present))]
        except UntrainedCombination as error:
            self.refused[str(error)] = str(error)
            return None
        except SubsenseError:
            if must:
                raise
            return None
        except Exception:
            if must:
                raise
            return ()  # what is missing made it fail, so it was read

    def _moved(self, before: Any, after: Any, rows: Any) -> float | None:
        """Give the mean distance over some rows of the outputs, in units of their spread; infinity for NaN."""
        if before is None or after is None:
            return None
        if len(before) != len(after) or any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
            return float("inf")
        moves = [_distance(a, b, rows, len(self.has)) for a, b in zip(before, after, strict=True)]
        return max(moves, default=0.0)

    def _untried(self, modality: str, *moves: float | None) -> list[Fault]:
        if None not in moves:
            return []
        why = next(iter(self.refused.values()), "no row can do without it")
        return [Fault("not checked", modality, f"{modality}: not all was tried: {why}")]


def _faults(modality: str, leak: float | None, how: str, reaction: float | None, mask: float | None) -> Iterator[Fault]:
    if leak:
        moves = (
            f"moves the output by {leak:.2g} of its spread" if isfinite(leak) else "makes the output NaN or an error"
        )
        text = f"{modality}: declared missing, it {moves} ({how})"
        yield Fault("leak", modality, f"{text}; the network must not read it: fill it, or mask it where it enters")
    if mask is not None and mask <= STILL:
        text = f"{modality}: declared missing or present, the output is the same"
        yield Fault("mask", modality, f"{text}; look where `present` is used, or whether it arrives at all")
    if reaction is not None and reaction <= STILL:
        text = f"{modality}: whatever its values, the output is the same where it is present"
        yield Fault("ignored", modality, f"{text}; the network doesn't use it: look at its branch, or drop the sensor")


def _replaced(part: Any, rows: Tensor, way: str, generator: torch.Generator) -> Any:
    """Give a tensor with other values in some rows; the same object where the way doesn't fit its dtype."""
    if not isinstance(part, Tensor) or not rows.any():
        return part
    where = rows.to(part.device)
    if way == "other rows":
        other = part.roll(1, 0)
    elif part.is_floating_point():
        other = _worse(part, way, generator)
    elif way == "noise":
        low, high = int(part.min()), int(part.max())
        other = torch.randint(low, high + 1, part.shape, generator=generator).to(part)
    else:
        return part
    return torch.where(where.view(-1, *[1] * (part.dim() - 1)), other, part)


def _worse(part: Tensor, way: str, generator: torch.Generator) -> Tensor:
    if way == "NaN":
        return torch.full_like(part, float("nan"))
    usual = part.double().nan_to_num(0)
    noise = torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part.device)
    factor = 3.0 if way == "noise" else 1e6
    return (usual.mean() + factor * max(float(usual.std(correction=0)), 1e-3) * noise).to(part)


def _distance(before: Tensor, after: Tensor, rows: Any, num_rows: int) -> float:
    is_of_rows = before.dim() > 0 and len(before) == num_rows
    chosen, other = (before[rows], after[rows]) if is_of_rows else (before, after)
    if torch.equal(chosen, other) or not chosen.numel():
        return 0.0
    a, b = chosen.double(), other.double()
    same = (a == b) | (a.isnan() & b.isnan())
    away = (a - b).abs()[~same]
    if not away.numel():
        return 0.0
    spread = before.double().nan_to_num(0, 0, 0).std(dim=0, correction=0).mean() if is_of_rows else a.abs().mean()
    scale = float(spread) or float(a.nan_to_num(0, 0, 0).abs().mean()) or 1.0
    total = float(away.sum()) / a.numel() / scale
    return total if total == total else float("inf")


@contextmanager
def _as_before(module: nn.Module, seed: int) -> Iterator[None]:
    """Draw the same numbers in every run, and leave buffers (running means) as they were."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
