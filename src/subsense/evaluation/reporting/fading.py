"""Samples whose sensors fade: one modality at a time, at some qualities, for the page's sliders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from subsense.degradation.degrader import Degrader
from subsense.degradation.kinds import Degradation
from subsense.errors import InputError, ModalityError
from subsense.modalities import Modalities

USUAL = ("noise", "lost-words")
"""What fades a modality on the page: the first of these that fits it, or else its first degradation."""


class Fading:
    """Fade samples.

    Args:
        modalities: the declared ones.
        samples: whose first ones say what is healthy.
        qualities: those of the sliders, between 0 and 1.
    """

    def __init__(
        self, modalities: Modalities, samples: Sequence[tuple[Mapping[str, Any], Tensor]], qualities: Sequence[float]
    ) -> None:
        self.modalities = modalities
        self.qualities = tuple(qualities)
        batches = [_batch(inputs) for inputs, _ in samples if set(modalities) <= set(inputs)]
        self._degrader = _degrader(modalities, batches) if qualities and batches else None

    def kind(self, modality: str) -> Degradation | None:
        """Give how a modality fades; None where it can't."""
        kinds = {str(one): one for one in self._degrader.fitting(modality)} if self._degrader else {}
        return next((kinds[name] for name in (*USUAL, *kinds) if name in kinds), None)

    def of(self, inputs: Mapping[str, Any], modality: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give a sample with one modality faded: quality in percent, and the inputs without batch axis."""
        kind = self.kind(modality)
        if kind is None or self._degrader is None or modality not in inputs:
            return
        for quality in self.qualities:
            faded = self._degrader.apply(_batch(inputs), modality, kind, 5 * (1 - quality), seed=0)
            yield round(100 * quality), {**inputs, modality: _first(faded[modality])}


def name_of(names: Sequence[str], modality: str, percent: int) -> str:
    """Write a combination in which one modality has a quality.

    >>> name_of(["rgb", "depth"], "depth", 50)
    'rgb+depth@50'
    """
    return "+".join(f"{name}@{percent}" if name == modality else name for name in names)


def _degrader(modalities: Modalities, batches: Sequence[Any]) -> Degrader | None:
    try:
        return Degrader(modalities, batches[:1])
    except (InputError, ModalityError):  # NaN, or axes that no degradation is for: the page goes without sliders
        return None


def _batch(inputs: Mapping[str, Any]) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate([{name: inputs[name] for name in inputs if name != "present"}])
    return batch


def _first(value: Any) -> Any:
    return {name: part[0] for name, part in value.items()} if isinstance(value, Mapping) else value[0]
