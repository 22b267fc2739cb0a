"""What a modality's input looks like when nothing is wrong with it: the units in which a degradation is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subsense.degradation.layout import Layout
from subsense.degradation.words import LOST, NO_WORD, OTHER

IN_EVERY_TEXT = 0.9
"""Share of the texts from which on a token is taken for none of their words: begin, end, padding."""


@dataclass(frozen=True)
class Scale:
    """Hold mean and standard deviation of measured values, float64 (1, ..., channel, ..., 1) as a batch has its axes.

    In float64, so that a value which is only put elsewhere comes back as the very value it was.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, layout: Layout, rows: Tensor) -> Scale:
        """Take both of healthy rows (row, ...), for each channel; a channel that never varies has that of all values.

        >>> from subsense.degradation.layout import LAYOUTS
        >>> scale = Scale.of(LAYOUTS["series"], torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]))
        >>> scale.mean.flatten(), scale.std.flatten()
        (tensor([2., 5.], dtype=torch.float64), tensor([1.0000, 1.6583], dtype=torch.float64))
        """
        channel = -1 if layout.channel is None else 1 + layout.channel
        axes = [axis for axis in range(rows.dim()) if axis != channel]
        values = rows.double()
        mean, std = values.mean(axes, keepdim=True), values.std(axes, correction=0, keepdim=True)
        overall = values.std(correction=0)
        std = torch.where(std > 0, std, overall if overall > 0 else torch.ones_like(overall))
        return cls(mean, std)

    def into(self, values: Tensor) -> Tensor:
        """Give values in standard deviations from the mean."""
        return (values.double() - self.mean.to(values.device)) / self.std.to(values.device)

    def back(self, values: Tensor, before: Tensor, units: Tensor) -> Tensor:
        """Give changed `units` as values; what didn't change is the very value of `before`."""
        changed = values * self.std.to(values.device) + self.mean.to(values.device)
        return torch.where(values == units, before, changed.to(before.dtype))


@dataclass(frozen=True)
class Vocabulary:
    """Hold the words that healthy texts have, and what isn't one: int64 (token,) each; `padding` is one of `others`."""

    words: Tensor
    others: Tensor
    padding: int

    @classmethod
    def of(cls, tokens: Tensor) -> Vocabulary:
        """Take them of healthy texts (row, place): tokens that nearly every text has are no words.

        >>> Vocabulary.of(torch.tensor([[1, 7, 8, 0], [1, 9, 0, 0]]))
        Vocabulary(words=tensor([7, 8, 9]), others=tensor([0, 1]), padding=0)
        """
        known = tokens.unique()
        in_texts = torch.stack([(tokens == token).any(1).double().mean() for token in known.tolist()])
        is_other = in_texts >= IN_EVERY_TEXT
        ends = tokens[:, -1].mode().values
        words = known[~is_other & (known != ends)]
        others = known[is_other | (known == ends)]
        return cls(words, others, int(ends))

    def into(self, tokens: Tensor) -> Tensor:
        """Give tokens with `NO_WORD` where no word stands."""
        return torch.where(torch.isin(tokens, self.others.to(tokens.device)), NO_WORD, tokens)

    def back(self, values: Tensor, before: Tensor, generator: torch.Generator) -> Tensor:
        """Give tokens again: others are drawn from the words, what is lost is padding."""
        if not len(self.words):
            return before
        drawn = self.words[torch.randint(len(self.words), tuple(before.shape), generator=generator)].to(before)
        tokens = torch.where(values == OTHER, drawn, before)
        return torch.where(values == LOST, self.padding, tokens)


def healthy(layout: Layout, rows: Sequence[Tensor]) -> Scale | Vocabulary:
    """Take what there is to know of healthy rows, one tensor (row, ...) for each batch.

    Rows of several batches may differ in size but for the channels: they are put together as places.
    """
    if layout.words is not None:
        longest = max(one.shape[1] for one in rows)
        same = [one for one in rows if one.shape[1] == longest]
        return Vocabulary.of(torch.cat(same))
    if len({one.shape[1:] for one in rows}) == 1:
        return Scale.of(layout, torch.cat(list(rows)))
    channel = layout.channel
    flat = [one.movedim(1 + channel, -1).flatten(0, -2) if channel is not None else one.flatten()[:, None]
            for one in rows]  # fmt: skip
    found = Scale.of(Layout("places", channel=0), torch.cat(flat))
    shape = [1] * rows[0].dim()
    if channel is not None:
        shape[1 + channel] = -1
    return Scale(found.mean.view(shape), found.std.view(shape))
