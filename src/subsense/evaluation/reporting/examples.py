"""Example inputs with what the network says about them, for every combination: plain data that a page can show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.utils.data import default_collate

from subsense.errors import InputError, UntrainedCombination
from subsense.evaluation.evaluate import asked_for
from subsense.evaluation.reporting.choosing import Choice, choose
from subsense.evaluation.reporting.fading import Fading, name_of
from subsense.evaluation.reporting.maps import as_map, has_regions
from subsense.evaluation.reporting.thumbnails import class_colour, image, mask, picture
from subsense.modalities import Combination, Modalities
from subsense.modalities.declaration import Wanted
from subsense.modalities.loaders import moved
from subsense.model.scores import are_finite, select_scores
from subsense.support.modules import device_of, evaluating

if TYPE_CHECKING:
    from subsense.model.confidence import Prediction as Trusted
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
    """Hold what is said about an example: a label, how sure (0..1), whether it is right, and a mask as a data URI.

    Where confidence was calibrated also whether it abstains, and the names of the classes that aren't ruled out.
    """

    label: str
    confidence: float | None = None
    right: bool | None = None
    mask: str | None = None
    abstains: bool | None = None
    others: tuple[str, ...] | None = None


class Both(_Frozen):
    """Hold what the frozen network and the adapted one say for one combination."""

    pretrained: Prediction
    adapted: Prediction


class Example(_Frozen):
    """Hold one sample: its inputs by modality, the truth, and predictions by combination.

    With one modality at a quality, ``"rgb+depth@50"`` in percent, predictions are in `faded`, inputs by modality and
    percent in `faded_inputs`.
    """

    name: str
    inputs: dict[str, Input]
    truth: Prediction
    predictions: dict[str, Both]
    faded: dict[str, Both] = {}
    faded_inputs: dict[str, dict[str, Input]] = {}


class Examples(_Frozen):
    """Hold examples and, for segmentation, the classes with their colours (None: left clear).

    `start` is the combination that the page begins with, `note` how the examples were chosen, `fades` how each modality
    fades under its slider, whose places, in percent, are `qualities`.
    """

    format: Literal[1] = 1
    legend: dict[str, str | None] = {}
    items: tuple[Example, ...]
    start: str = ""
    note: str = ""
    fades: dict[str, str] = {}
    qualities: tuple[int, ...] = ()


def collect_examples(
    robust: RobustModel,
    items: Iterable[Any],
    *,
    class_names: Sequence[str] | None = None,
    combinations: Wanted = "all",
    names: Sequence[str] | None = None,
    render: Mapping[str, Render] | None = None,
    select: Callable[[Any], Tensor] = select_scores,
    keep: int | None = None,
    qualities: Sequence[float] = (0.75, 0.5, 0.25),
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
        keep: show so many of the items, first those on which the frozen network fails with something missing and the
            adapted one doesn't; the page says how many there are. None: all, in order.
        qualities: what the page's sliders offer between missing and healthy: one modality at a time is degraded, and
            its quality given. None where nothing that degrades fits, or where they are empty.

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
    asked = asked_for(robust.modalities, combinations)
    fading = Fading(robust.modalities, samples, qualities)
    speaker = _Speaker(robust, asked, select, class_names, fading)
    with evaluating(robust), torch.no_grad():
        choice = Choice(tuple(range(len(samples))))
        if keep is not None:
            choice = choose(robust, samples, asked, speaker.scores, keep)
        examples = [speaker.example(titles[row], *samples[row], render or {}) for row in choice.samples]
    shown = {name for example in examples for name in example.faded_inputs}
    fades = {name: str(fading.kind(name)) for name in robust.modalities if name in shown}
    return Examples(
        legend=speaker.legend(samples[0]),
        items=tuple(examples),
        start=choice.start,
        note=choice.note,
        fades=fades,
        qualities=tuple(round(100 * one) for one in fading.qualities) if fades else (),
    )


@dataclass(frozen=True)
class _Speaker:
    """Put into words and pictures what the network says about a sample."""

    robust: RobustModel
    combinations: Sequence[Combination]
    select: Callable[[Any], Tensor]
    class_names: Sequence[str] | None
    fading: Fading

    def example(self, name: str, inputs: Mapping[str, Any], target: Tensor, render: Mapping[str, Render]) -> Example:
        has = [one for one in self.combinations if _has(self.robust.modalities, inputs, one)]
        shown = {name: _shown(inputs[name], render.get(name)) for name in self.robust.modalities if name in inputs}
        predictions = {str(one): self.both(inputs, target, one) for one in has}
        faded, faded_inputs = self.faded(inputs, target, has, render)
        truth = self.truth(inputs, target)
        return Example(name=name, inputs=shown, truth=truth, predictions=predictions,
                       faded=faded, faded_inputs=faded_inputs)  # fmt: skip

    def faded(
        self, inputs: Mapping[str, Any], target: Tensor, has: Sequence[Combination], render: Mapping[str, Render]
    ) -> tuple[dict[str, Both], dict[str, dict[str, Input]]]:
        """Say what is made of a sample one of whose modalities fades, and show that modality."""
        said: dict[str, Both] = {}
        shown: dict[str, dict[str, Input]] = {}
        for modality in self.robust.modalities:
            with_it = [one for one in has if modality in one]
            for percent, worse in self.fading.of(inputs, modality) if with_it else ():
                present = torch.stack([self.robust.modalities.present(one).float() for one in with_it])
                present[:, self.robust.modalities.names.index(modality)] *= percent / 100
                try:
                    pairs = [self.rows(run, worse, present) for run in (self.robust.pretrained, self.robust)]
                except UntrainedCombination:  # qualities need sets for both ends
                    continue
                for number, one in enumerate(with_it):
                    before, after = (rows[number] for rows in pairs)
                    said[name_of(list(one), modality, percent)] = Both(
                        pretrained=self.said(before, target), adapted=self.said(after, target, present[number])
                    )
                shown.setdefault(modality, {})[str(percent)] = _shown(worse[modality], render.get(modality))
        return said, shown

    def both(self, inputs: Mapping[str, Any], target: Tensor, combination: Combination) -> Both:
        """Say what the frozen and the adapted network make of one combination."""
        return Both(
            pretrained=self.said(self.scores(self.robust.pretrained, inputs, combination), target),
            adapted=self.said(
                self.scores(self.robust, inputs, combination), target, self.robust.modalities.present(combination)
            ),
        )

    def scores(self, run: Callable[..., Any], inputs: Mapping[str, Any], combination: Combination) -> Tensor:
        """Give the scores of one sample, run twice in one batch: a network that squeezes loses a single row."""
        return self.rows(run, inputs, self.robust.modalities.present(combination).expand(2, -1))[0]

    def rows(self, run: Callable[..., Any], inputs: Mapping[str, Any], present: Tensor) -> Tensor:
        """Run one sample once for each row of `present`, and a single one twice."""
        device, count = device_of(self.robust.network), max(2, len(present))
        batch = moved(default_collate([{name: inputs[name] for name in inputs if name != "present"}] * count), device)
        return self.select(run(batch, present.expand(count, -1)))[: len(present)].float().cpu()

    def said(self, scores: Tensor, target: Tensor, present: Tensor | None = None) -> Prediction:
        """Describe the scores of one sample: (class, H, W), (class,), or a single value.

        With `present`, what the model has of the sample, also how far it can be trusted, where that was calibrated.
        """
        read = self._read(scores, present)
        if not bool(are_finite(scores[None]).all()):
            return Prediction(label="NaN or infinity", abstains=None if read is None else True)
        scores, target = as_map(scores, target)
        if scores.ndim == 3:
            return self._segmented(scores, target, read)
        if target.is_floating_point() or scores.numel() == 1:
            return Prediction(label=f"{float(scores.flatten()[0]):+.2f}{_interval(read)}")
        index = int(scores.argmax())
        right = index == int(target)
        if read is None or read.confidence is None:
            return Prediction(label=self.name(index), confidence=float(scores.softmax(0)[index]), right=right)
        others = tuple(self.name(one) for one in read.set[0].nonzero().flatten().tolist())
        return Prediction(label=self.name(index), confidence=float(read.confidence[0]), right=right,
                          abstains=bool(read.abstain[0]), others=others)  # fmt: skip

    def _read(self, scores: Tensor, present: Tensor | None) -> Trusted | None:
        if present is None or self.robust.confidence is None:
            return None
        modalities = self.robust.modalities
        return self.robust.confidence.trust(present.double().tolist(), modalities).read(scores[None])

    def _segmented(self, scores: Tensor, target: Tensor, read: Trusted | None) -> Prediction:
        classes = scores.argmax(0)
        counts = (target >= 0) & (target < len(scores))
        right = float((classes == target)[counts].float().mean())
        silent = f", {float(read.abstain.float().mean()):.0%} abstained from" if read else ""
        return Prediction(label=f"{right:.0%} of the pixels right{silent}", mask=mask(classes, len(scores)))

    def truth(self, inputs: Mapping[str, Any], target: Tensor) -> Prediction:
        """Describe the target of one sample."""
        if target.ndim >= 2:
            scores, target = as_map(self.frozen(inputs), target)
            return Prediction(label="truth", mask=mask(target, len(scores)))
        return Prediction(label=f"{float(target):+.2f}" if target.is_floating_point() else self.name(int(target)))

    def frozen(self, inputs: Mapping[str, Any]) -> Tensor:
        """Give the scores of the frozen network."""
        has = [one for one in self.combinations if _has(self.robust.modalities, inputs, one)]
        return self.scores(self.robust.pretrained, inputs, has[0])

    def name(self, index: int) -> str:
        """Name a class."""
        return f"class {index}" if self.class_names is None else self.class_names[index]

    def legend(self, sample: tuple[Mapping[str, Any], Tensor]) -> dict[str, str | None]:
        """Give the colours of the classes where the task is segmentation."""
        inputs, target = sample
        if target.ndim < 2:
            return {}
        scores, _ = as_map(self.frozen(inputs), target)
        names = [self.name(index) for index in range(len(scores) - has_regions(target))]
        names = ["none of them", *names] if has_regions(target) else names
        return {name: class_colour(index) for index, name in enumerate(names)}


def _interval(read: Trusted | None) -> str:
    """Write the interval of a value, where there is one."""
    return "" if read is None else " ({:+.2f} to {:+.2f})".format(*read.set.flatten()[:2].tolist())


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
