"""`Monitor`: learn from healthy rows what a model's inputs look like, so that it notices when they don't."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from subsense.degradation import find
from subsense.errors import InputError
from subsense.modalities import Modalities, Modality
from subsense.modalities.inputs import check_names
from subsense.modalities.loaders import available, moved, split
from subsense.model.robust import RobustModel
from subsense.model.watching.stream import Stream
from subsense.model.watching.watch import Health, Watch
from subsense.monitoring.choosing import ALL, choose
from subsense.monitoring.learning import layout_for, learn
from subsense.support.modules import device_of, evaluating


class Monitor:
    """Learn what healthy input looks like, and stay with the model: ``present="auto"`` asks it.

    For each modality of floats: moments of every channel, robust to outliers, and by cross-fitting a threshold that a
    healthy row passes with a probability of `false_alarms`. What is then done about a row that is doubted (dropped,
    kept, or given with a quality between) is chosen by degrading healthy rows and comparing the network's output with
    what it says of them as they are; no label is read.

    Args:
        robust: the adapted network, trained or calibrated: its sets decide what a doubted modality is still good for.
        loader: healthy batches ``(inputs, target)`` or inputs, as `train` takes them; best of rows that no training
            saw. In the order of time where a sensor may rightly repeat itself from row to row.
        false_alarms: how often a modality of a healthy row may be doubted: per row and modality.
        kinds: degradations of `subsense.degradation` by which the choice is made, each used where it fits.
        layouts: modality -> its axes, where their number misleads; see `Degrader`.
        select: takes the scores out of the network's output.
        rows: how many rows to learn from; `chosen_by`: how many of them to degrade.

    Attributes:
        watch: what was learned, also ``robust.monitor``.

    Raises:
        InputError: too few healthy rows for so few false alarms, NaN or infinity among them, an unknown kind.
        ModalityError: an unknown modality or layout.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(40, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left.flatten(1)) + self.b(right)
    >>> _ = torch.manual_seed(0)
    >>> robust = ss.adapt(Sum(), {"left": "20 2", "right": "6"}, sharing="additive")
    >>> robust.mark_trained(robust.combinations)  # by `train`, were this more than an example
    >>> healthy = {"left": torch.randn(200, 20, 2), "right": torch.randn(200, 6)}
    >>> monitor = ss.Monitor(robust, [healthy])
    >>> print(monitor)  # doctest: +ELLIPSIS
    modality  axes    where it is doubted
    --------  ------  ----------------------------------------
    left      series  dropped below a health of 0..., else kept
    right     vector  dropped below a health of 1, else kept
    <BLANKLINE>
    doubted: at most 1.00% of healthy rows, for each modality
    >>> batch = {"left": torch.randn(3, 20, 2), "right": torch.randn(3, 6)}
    >>> batch["left"][1, 6:] = batch["left"][1, 5]
    >>> batch["right"][2, 0] = float("nan")
    >>> print(monitor(batch))
    row 1: left: stuck for 15 samples
    row 2: right: not finite: 1 of 6 values
    >>> robust(batch, present="auto").isfinite().all()
    tensor(True)
    """

    def __init__(
        self,
        robust: RobustModel,
        loader: Iterable[Any],
        *,
        false_alarms: float = 0.01,
        kinds: Iterable[str] = ALL,
        layouts: Mapping[str, str] | None = None,
        select: Callable[[Any], Tensor] | None = None,
        rows: int = 1024,
        chosen_by: int = 64,
        seed: int = 0,
    ) -> None:
        if not 0 < false_alarms < 1:
            raise InputError(f"false_alarms: expected a share between 0 and 1, but found {false_alarms!r}")
        names = [str(find(kind)) for kind in kinds]
        check_names(robust.modalities, layouts or {})
        batches = _batches(robust.modalities, loader, rows)
        parts = {name: part for name, one in robust.modalities.items() if (part := watched_part(robust, one))}
        sensors = {}
        for name, part in parts.items():
            layout = layout_for(name, robust.modalities[name].parts[part], (layouts or {}).get(name))
            sensors[name] = learn(layout, _healthy(robust.modalities, batches, name, part), false_alarms)
        watch = Watch(robust.modalities, sensors, parts, false_alarms)
        complete = _complete(robust.modalities, batches, chosen_by)
        if complete is not None and len(robust.modalities) > 1:
            with evaluating(robust), torch.no_grad():
                inputs = moved(complete, device_of(robust.network))
                watch = choose(robust, watch, inputs, names, select or scores, seed)
        self.watch = robust.monitor = watch

    def __call__(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Health:
        """Look at a batch, each row for itself; arguments as for `RobustModel.forward`."""
        return self.watch(inputs, present)

    def __str__(self) -> str:
        return str(self.watch)

    def stream(self) -> Stream:
        """Begin a stream, see `Watch.stream`."""
        return self.watch.stream()


def scores(output: Any) -> Tensor:
    """Take the tensor that an output is, or its ``logits``."""
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise InputError(
            f"select: expected an output that is a tensor or has logits, but found {type(output).__name__}; say which "
            "tensor: Monitor(..., select=lambda output: ...)"
        )
    return found


def watched_part(robust: RobustModel, modality: Modality) -> str | None:
    """Give the part of a modality that is watched: the first of floats that is no mask; None where there is none."""
    for part, axes in modality.parts.items():
        if axes.torch_dtype.is_floating_point and (modality.name, part) not in robust.fill.masks:
            return part
    return None


def _batches(modalities: Modalities, loader: Iterable[Any], rows: int) -> list[tuple[Mapping[str, Any], Tensor]]:
    """Give the first rows of a loader: inputs, and which of their rows have what."""
    found, left = [], rows
    for batch in loader:
        inputs, _ = split(batch)
        has = available(modalities, inputs)
        found.append((inputs, has[:left]))
        left -= len(has)
        if left <= 0:
            break
    if not found:
        raise InputError("loader: expected at least one batch of healthy rows, but found none")
    return found


def _healthy(modalities: Modalities, batches: list[tuple[Mapping[str, Any], Tensor]], name: str, part: str) -> Tensor:
    """Give a modality's rows, those of the commonest size."""
    column = list(modalities).index(name)
    found: dict[torch.Size, list[Tensor]] = {}
    for inputs, has in batches:
        if (value := inputs.get(name)) is None:
            continue
        whole = value if isinstance(value, Tensor) else value[part]
        kept = whole[has[:, column].nonzero().flatten().to(whole.device)].detach().cpu()
        found.setdefault(kept.shape[1:], []).append(kept)
    if not found:
        raise InputError(f"loader: no row has {name!r}, so it can't be learned what is healthy; pass rows that have it")
    rows = torch.cat(max(found.values(), key=lambda some: sum(map(len, some))))
    if lost := int((~rows.isfinite().flatten(1).all(1)).sum()):
        raise InputError(
            f"loader: {lost} rows of {name!r} hold NaN or infinity, so what is healthy can't be told; say in `present` "
            "that these rows lack it, or repair them"
        )
    return rows


def _complete(modalities: Modalities, batches: list[tuple[Mapping[str, Any], Tensor]], most: int) -> Any:
    """Give rows of one batch that have everything, the most that a batch has; None where none has."""
    best = max(batches, key=lambda one: int(one[1].all(1).sum()))
    rows = best[1].all(1).nonzero().flatten()[:most]
    if not len(rows):
        return None
    return {name: _taken(best[0][name], rows) for name in modalities}


def _taken(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Mapping):
        return {part: _taken(one, rows) for part, one in value.items()}
    return value[rows.to(value.device)]
