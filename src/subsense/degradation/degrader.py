"""`Degrader`: makes batches as bad as their qualities say, each row and modality by a kind of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsense.degradation.catalogue import DEGRADATIONS, find
from subsense.degradation.healthy import Scale, Vocabulary, healthy
from subsense.degradation.kinds import Degradation, severity_of
from subsense.degradation.layout import Layout, back, into, layout_of
from subsense.errors import InputError, ModalityError
from subsense.modalities import AxisSpec, Modalities, Modality
from subsense.modalities.inputs import check_names, check_present
from subsense.modalities.loaders import available, num_rows, split

Kinds = str | Degradation | Iterable[str | Degradation]
"""A degradation or its name, or several of them."""

MASK = "attention_mask"
"""The part of a text that says where its words stand."""


@dataclass(frozen=True)
class Sensor:
    """Hold what is known of one modality: which part of it degrades, its axes, its healthy input, and how it fails."""

    part: str
    layout: Layout
    healthy: Scale | Vocabulary
    kinds: tuple[Degradation, ...]


class Degrader:
    """Degrade batches as a quality says, float in [0, 1] per row and modality: 1 is left alone, 0 is never read.

    Args:
        modalities: the declared ones, ``robust.modalities``.
        loader: healthy batches ``(inputs, target)`` or inputs; the first `rows` rows give the units: mean and standard
            deviation of each channel, or a text's words. What ``"present"`` says is missing has no say.
        kinds: how sensors fail: names of `DEGRADATIONS` for all modalities, each used where it fits (``"all"``: every
            one), or modality -> names. A modality that isn't named never degrades.
        layouts: modality -> name of `LAYOUTS`, where its axes aren't what their number suggests: 1 vector (feature), 2
            series (time, channel), 3 image (channel, H, W), 4 video (channel, time, H, W), integers: tokens.
        rows: how many rows to learn from.

    Raises:
        ModalityError: an unknown modality or layout, or a kind that doesn't fit the axes of the modality it is for.
        InputError: an unknown kind; a loader in which a modality is never there, or holds NaN or infinity.

    >>> modalities = Modalities({"accelerometer": "100 3", "depth": "1 32 32"})
    >>> batch = {"accelerometer": torch.randn(8, 100, 3), "depth": torch.rand(8, 1, 32, 32)}
    >>> degrader = Degrader(modalities, [batch], kinds=["noise", "stuck", "fog"])
    >>> {name: [str(kind) for kind in kinds] for name, kinds in degrader.kinds.items()}
    {'accelerometer': ['noise', 'stuck'], 'depth': ['noise', 'fog']}
    >>> quality = torch.tensor([[0.4, 1.0]]).expand(8, -1)
    >>> worse = degrader(batch, quality, seed=0)
    >>> torch.equal(worse["depth"], batch["depth"]), torch.equal(worse["accelerometer"], batch["accelerometer"])
    (True, False)
    """

    def __init__(
        self,
        modalities: Modalities | Mapping[str, AxisSpec],
        loader: Iterable[Any],
        *,
        kinds: Kinds | Mapping[str, Kinds] = "all",
        layouts: Mapping[str, str] | None = None,
        rows: int = 1024,
    ) -> None:
        if not isinstance(modalities, Modalities):
            modalities = Modalities(modalities)
        self.modalities = modalities
        check_names(modalities, layouts or {})
        asked = _asked(modalities, kinds, layouts or {})
        samples = _samples(modalities, loader, asked, rows)
        self._sensors = {name: Sensor(_part(modalities[name]), layout, healthy(layout, samples[name]), chosen)
                         for name, (layout, chosen) in asked.items()}  # fmt: skip

    @property
    def kinds(self) -> dict[str, tuple[Degradation, ...]]:
        """Give how each modality may fail; those that never do are left out."""
        return {name: sensor.kinds for name, sensor in self._sensors.items()}

    def __call__(self, inputs: Mapping[str, Any], quality: Tensor, *, seed: int) -> dict[str, Any]:
        """Give inputs as bad as their quality: rows strictly between 0 and 1 draw a kind, at severity 5 (1 - quality).

        The same seed makes the same of the same batch, on any device.

        Args:
            inputs: modality -> tensor (batch, ...), or argument -> tensor; what is absent stays so.
            quality: float (batch, modality).
            seed: of this batch.

        Raises:
            InputError: a quality of another shape or range.
        """
        quality = check_present(self.modalities, quality, num_rows(inputs))
        severity = severity_of(quality.float())
        touched = (quality > 0) & (quality < 1)
        generator = torch.Generator().manual_seed(seed)
        changed = dict(inputs)
        for column, name in enumerate(self.modalities):
            if (sensor := self._sensors.get(name)) is None or inputs.get(name) is None:
                continue
            drawn = torch.randint(len(sensor.kinds), (len(quality),), generator=generator)
            for number, kind in enumerate(sensor.kinds):
                rows = (touched[:, column].cpu() & (drawn == number)).nonzero().flatten()
                if len(rows):
                    changed[name] = self._changed(name, changed[name], rows, kind, severity[:, column], generator)
        return changed

    def apply(
        self, inputs: Mapping[str, Any], modality: str, kind: str | Degradation, severity: float, *, seed: int
    ) -> dict[str, Any]:
        """Degrade one modality of all rows by one kind, at a severity in [0, 5].

        Raises:
            ModalityError: an unknown modality, or one that never degrades; a kind that doesn't fit it.
            InputError: an unknown kind, a severity out of range.
        """
        sensor, chosen = self._sensor(modality), find(kind)
        if not sensor.layout.has(chosen.form):
            raise ModalityError(_misfit(chosen, modality, sensor.layout))
        if not 0 <= severity <= 5:
            raise InputError(f"severity: expected a number in [0, 5], but found {severity!r}")
        if inputs.get(modality) is None or severity == 0:
            return dict(inputs)
        rows = torch.arange(num_rows(inputs))
        generator = torch.Generator().manual_seed(seed)
        severities = torch.full((len(rows),), float(severity))
        return {
            **inputs,
            modality: self._changed(modality, inputs[modality], rows, chosen, severities, generator),
        }

    def fitting(self, modality: str) -> tuple[Degradation, ...]:
        """Give every degradation that fits a modality; none for one that never degrades."""
        sensor = self._sensors.get(modality)
        return () if sensor is None else _fitting(sensor.layout)

    def _sensor(self, modality: str) -> Sensor:
        check_names(self.modalities, {modality: None})
        if modality not in self._sensors:
            raise ModalityError(f"{modality!r} never degrades here; the kinds are for {', '.join(self._sensors)}")
        return self._sensors[modality]

    def _changed(
        self,
        name: str,
        value: Tensor | Mapping[str, Tensor],
        rows: Tensor,
        kind: Degradation,
        severity: Tensor,
        generator: torch.Generator,
    ) -> Tensor | dict[str, Tensor]:
        """Give a modality's tensor, or its parts, with some rows degraded."""
        sensor = self._sensors[name]
        parts = {name: value} if isinstance(value, Tensor) else dict(value)
        whole = parts[sensor.part]
        rows = rows.to(whole.device)
        before = whole[rows]
        amount = kind.amount(severity.to(whole.device)[rows])
        if isinstance(sensor.healthy, Scale):
            units = sensor.healthy.into(before)
            values, order, sizes = into(kind.form, sensor.layout, units)
            after = sensor.healthy.back(back(kind.change(values, amount, generator), order, sizes), before, units)
        else:
            words = sensor.healthy.into(before)
            changed = kind.change(words, amount, generator)
            after = sensor.healthy.back(changed, before, generator)
            if MASK in parts:
                parts[MASK] = parts[MASK].index_copy(
                    0,
                    rows,
                    torch.where(after == before, parts[MASK][rows], after != sensor.healthy.padding).to(parts[MASK]),
                )
        parts[sensor.part] = whole.index_copy(0, rows, after)
        return parts[name] if isinstance(value, Tensor) else parts


def _asked(
    modalities: Modalities, kinds: Kinds | Mapping[str, Kinds], layouts: Mapping[str, str]
) -> dict[str, tuple[Layout, tuple[Degradation, ...]]]:
    """Give layout and kinds of every modality that degrades."""
    if isinstance(kinds, Mapping):
        check_names(modalities, kinds)
        given = {name: _listed(some) for name, some in kinds.items()}
    else:
        given = dict.fromkeys(modalities, _listed(kinds))
    found = {}
    for name, some in given.items():
        modality = modalities[name]
        layout = layout_of(name, modality.parts[_part(modality)], layouts.get(name))
        fits = tuple(kind for kind in some if layout.has(kind.form))
        wrong = [kind for kind in some if kind not in fits] if isinstance(kinds, Mapping) and some != _ALL else []
        if wrong or not fits:
            raise ModalityError(_misfit((wrong or list(some))[0], name, layout))
        found[name] = layout, fits
    return found


_ALL = tuple(DEGRADATIONS.values())


def _listed(kinds: Kinds) -> tuple[Degradation, ...]:
    if isinstance(kinds, str) and kinds == "all":
        return _ALL
    some = [kinds] if isinstance(kinds, (str, Degradation)) else list(kinds)
    if not some:
        raise InputError("kinds: expected 'all' or at least one degradation, but found none")
    return tuple(map(find, some))


def _fitting(layout: Layout) -> tuple[Degradation, ...]:
    return tuple(kind for kind in _ALL if layout.has(kind.form))


def _misfit(kind: Degradation, name: str, layout: Layout) -> str:
    fitting = ", ".join(map(str, _fitting(layout)))
    return (
        f"degradation {kind.name!r} doesn't fit {name!r}, which is taken for {layout.name!r}: those that do are "
        f"{fitting}. Say layouts={{{name!r}: ...}} where its axes are other ones, or name kinds for each modality"
    )


def _part(modality: Modality) -> str:
    """Give the part that degrades: the first of floats, else the first."""
    floats = [part for part, axes in modality.parts.items() if axes.torch_dtype.is_floating_point]
    return (floats or list(modality.parts))[0]


def _samples(
    modalities: Modalities, loader: Iterable[Any], names: Iterable[str], rows: int
) -> dict[str, Sequence[Tensor]]:
    """Give the healthy rows of each modality."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    left = rows
    for batch in loader:
        inputs, _ = split(batch)
        has = available(modalities, inputs)
        for column, name in enumerate(modalities):
            value = inputs.get(name)
            if name in found and value is not None and (there := has[:left, column].nonzero().flatten()).numel():
                whole = value if isinstance(value, Tensor) else value[_part(modalities[name])]
                found[name].append(whole[there.to(whole.device)].detach().cpu())
        left -= len(has)
        if left <= 0:
            break
    for name, some in found.items():
        if not some:
            raise InputError(
                f"loader: no row of the first {rows} has {name!r}, so nothing is known of it when healthy; "
                "leave it out of `kinds`"
            )
        if lost := sum(int((~one.isfinite().flatten(1).all(1)).sum()) for one in some):
            raise InputError(
                f"loader: {lost} rows of {name!r} hold NaN or infinity, so what is healthy can't be told; say in "
                "`present` that these rows lack it, or repair them"
            )
    return {name: tuple(some) for name, some in found.items()}
