"""Example inputs with what the network says about them, for every combination: plain data that a page can show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.utils.data import default_collate

from subsense.errors import InputError
from subsense.evaluation.evaluate import asked_for
from subsense.evaluation.reporting.thumbnails import class_colour, image, mask, picture
from subsense.modalities import Combination, Modalities
from subsense.modalities.declaration import Wanted
from subsense.modalities.loaders import moved
from subsense.model.scores import are_finite, select_scores
from subsense.support.modules import device_of, evaluating

if TYPE_CHECKING:
    from subsense.model.robust import RobustModel

Render = Callable[[Any], "str | Tensor"]
MAX_TEXT = 280


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(_Frozen):
    """Hold one modality of an example: a picture as a data URI, or a text."""

    kind: Literal["picture", "text"]
    content: str


class Prediction(_Frozen):
    """Hold what is said about an example: a label, how sure (0..1), whether it is right, and a mask as a data URI."""

    label: str
    confidence: float | None = None
    right: bool | None = None
    mask: str | None = None


class Both(_Frozen):
    """Hold what the frozen network and the adapted one say for one combination."""

    pretrained: Prediction
    adapted: Prediction


class Example(_Frozen):
    """Hold one sample: its inputs by modality, the truth, and predictions by combination."""

    name: str
    inputs: dict[str, Input]
    truth: Prediction
    predictions: dict[str, Both]


class Examples(_Frozen):
    """Hold examples and, for segmentation, the classes with their colours (None: left clear)."""

    format: Literal[1] = 1
    legend: dict[str, str | None] = {}
    items: tuple[Example, ...]


def collect_examples(
    robust: RobustModel,
    items: Iterable[Any],
    *,
    class_names: Sequence[str] | None = None,
    combinations: Wanted = "all",
    names: Sequence[str] | None = None,
    render: Mapping[str, Render] | None = None,
    select: Callable[[Any], Tensor] = select_scores,
) -> Examples:
    """Run single samples through the network for every combination, and keep pictures and predictions.

    What the network does is seen from its scores: one per class (classification), one per class and pixel
    (segmentation), or a single value (regression).

    Args:
        robust: the network with its adapter sets; left in its former mode.
        items: samples ``({modality: tensor}, target)`` as a data set yields them, without batch axis.
        class_names: in the order of the class indices; by default ``class 0`` and so on.
        combinations: ``"all"``, the complete one included, or those to run. One that a sample lacks is left out.
        names: what the page calls the samples.
        render: modality -> what draws it: value -> a text, or an image (1 or 3, H, W) of values in 0..1. Without it
            integers are written as numbers, and all else is drawn by its number of axes.
        select: takes the scores out of the network's output.

    Raises:
        InputError: an item of another form, or no item at all.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> robust.mark_trained(robust.combinations)  # by `train`, were this more than an example
    >>> sample = {"left": torch.ones(4), "right": torch.ones(6)}, 2
    >>> examples = ss.collect_examples(robust, [sample], class_names=["walk", "run", "fall"])
    >>> examples.items[0].truth.label, list(examples.items[0].predictions)
    ('fall', ['left', 'right', 'left+right'])
    """
    samples = [_sample(item) for item in items]
    if not samples:
        raise InputError("items: expected at least one sample ({modality: tensor}, target), but found none")
    titles = names or [f"example {number}" for number in range(1, len(samples) + 1)]
    speaker = _Speaker(robust, asked_for(robust.modalities, combinations), select, class_names)
    with evaluating(robust), torch.no_grad():
        examples = [
            speaker.example(title, *sample, render or {}) for title, sample in zip(titles, samples, strict=True)
        ]
    return Examples(legend=speaker.legend(samples[0]), items=tuple(examples))


@dataclass(frozen=True)
class _Speaker:
    """Put into words and pictures what the network says about a sample."""

    robust: RobustModel
    combinations: Sequence[Combination]
    select: Callable[[Any], Tensor]
    class_names: Sequence[str] | None

    def example(self, name: str, inputs: Mapping[str, Any], target: Tensor, render: Mapping[str, Render]) -> Example:
        has = [one for one in self.combinations if _has(self.robust.modalities, inputs, one)]
        shown = {name: _shown(inputs[name], render.get(name)) for name in self.robust.modalities if name in inputs}
        predictions = {str(one): self.both(inputs, target, one) for one in has}
        return Example(name=name, inputs=shown, truth=self.truth(inputs, target), predictions=predictions)

    def both(self, inputs: Mapping[str, Any], target: Tensor, combination: Combination) -> Both:
        """Say what the frozen and the adapted network make of one combination."""
        return Both(
            pretrained=self.said(self.scores(self.robust.pretrained, inputs, combination), target),
            adapted=self.said(self.scores(self.robust, inputs, combination), target),
        )

    def scores(self, run: Callable[..., Any], inputs: Mapping[str, Any], combination: Combination) -> Tensor:
        """Give the scores of one sample, run twice in one batch: a network that squeezes loses a single row."""
        device = device_of(self.robust.network)
        batch = moved(default_collate([{name: inputs[name] for name in inputs if name != "present"}] * 2), device)
        present = self.robust.modalities.present(combination).expand(2, -1)
        return self.select(run(batch, present))[0].float().cpu()

    def said(self, scores: Tensor, target: Tensor) -> Prediction:
        """Describe the scores of one sample: (class, H, W), (class,), or a single value."""
        if not bool(are_finite(scores[None]).all()):
            return Prediction(label="NaN or infinity")
        if scores.ndim == 3:
            return self._segmented(scores, target)
        if target.is_floating_point() or scores.numel() == 1:
            return Prediction(label=f"{float(scores.flatten()[0]):+.2f}")
        index = int(scores.argmax())
        confidence = float(scores.softmax(0)[index])
        return Prediction(label=self.name(index), confidence=confidence, right=index == int(target))

    def _segmented(self, scores: Tensor, target: Tensor) -> Prediction:
        classes = scores.argmax(0)
        counts = (target >= 0) & (target < len(scores))
        right = float((classes == target)[counts].float().mean())
        return Prediction(label=f"{right:.0%} of the pixels right", mask=mask(classes, len(scores)))

    def truth(self, inputs: Mapping[str, Any], target: Tensor) -> Prediction:
        """Describe the target of one sample."""
        if target.ndim == 2:
            return Prediction(label="truth", mask=mask(target, self.num_classes(inputs)))
        return Prediction(label=f"{float(target):+.2f}" if target.is_floating_point() else self.name(int(target)))

    def num_classes(self, inputs: Mapping[str, Any]) -> int:
        """Count the classes that the network has scores for."""
        has = [one for one in self.combinations if _has(self.robust.modalities, inputs, one)]
        return len(self.scores(self.robust.pretrained, inputs, has[0]))

    def name(self, index: int) -> str:
        """Name a class."""
        return f"class {index}" if self.class_names is None else self.class_names[index]

    def legend(self, sample: tuple[Mapping[str, Any], Tensor]) -> dict[str, str | None]:
        """Give the colours of the classes where the task is segmentation."""
        inputs, target = sample
        if target.ndim != 2:
            return {}
        return {self.name(index): class_colour(index) for index in range(self.num_classes(inputs))}


def _sample(item: Any) -> tuple[dict[str, Any], Tensor]:
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], Mapping):
        raise InputError(f"items: expected samples ({{modality: tensor}}, target), but found {type(item).__name__}")
    inputs = {name: value for name, value in item[0].items() if value is not None}
    return inputs, torch.as_tensor(item[1])


def _has(modalities: Modalities, inputs: Mapping[str, Any], combination: Combination) -> bool:
    present = inputs.get("present", torch.ones(len(modalities), dtype=torch.bool))
    has = {name for name, flag in zip(modalities, present, strict=True) if flag and name in inputs}
    return has.issuperset(combination)


def _shown(value: Any, render: Render | None) -> Input:
    drawn = render(value) if render else _plain(value)
    if isinstance(drawn, str):
        cut = drawn if len(drawn) <= MAX_TEXT else drawn[: MAX_TEXT - 1] + "…"
        return Input(kind="text", content=cut)
    return Input(kind="picture", content=image(drawn) if render else picture(drawn))


def _plain(value: Any) -> str | Tensor:
    """Give what is drawn of a value by default: of several tensors the first, of integers their numbers."""
    first = next(iter(value.values())) if isinstance(value, Mapping) else value
    if isinstance(first, Tensor) and first.ndim == 1 and not first.is_floating_point():
        return " ".join(map(str, first.tolist()))
    return first if isinstance(first, Tensor) else str(first)
