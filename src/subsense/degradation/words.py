"""What befalls texts: wrong words and lost words, all of them at severity 5, which leaves an empty text.

Values are token indices (row, place). What is no word (begin, end, padding, unknown to the vocabulary) stays: -1 stands
there. What is lost becomes `LOST`, and `Healthy` knows which token that is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subsense.degradation.kinds import SHARES, Degradation, uniform

NO_WORD, LOST, OTHER = -1, -2, -3


def wrong_words(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Replace a share of the words by others: a misheard sentence, another language.

    >>> wrong_words(torch.tensor([[-1, 7, 8, 9, -1]]), torch.tensor([1.0]), torch.Generator().manual_seed(0))
    tensor([[-1, -3, -3, -3, -1]])
    """
    return _put(values, amount, generator, OTHER)


def lost_words(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Lose a share of the words, each with the same probability; with all of them lost the text is empty.

    >>> lost_words(torch.tensor([[-1, 7, 8, 9, -1]]), torch.tensor([1.0]), torch.Generator().manual_seed(0))
    tensor([[-1, -2, -2, -2, -1]])
    """
    return _put(values, amount, generator, LOST)


def cut_text(values: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Lose a share of the words from the end on: a broken connection.

    >>> cut_text(torch.tensor([[-1, 7, 8, 9, 6, -1]]), torch.tensor([0.5]), torch.Generator())
    tensor([[-1,  7,  8, -2, -2, -1]])
    """
    words = values != NO_WORD
    number = words.cumsum(1)
    kept = ((1 - amount) * number[:, -1]).round()
    return torch.where(words & (number > kept[:, None]), LOST, values)


def _put(values: Tensor, amount: Tensor, generator: torch.Generator, what: int) -> Tensor:
    hit = uniform(generator, values, *values.shape) < amount[:, None]
    return torch.where(hit & (values != NO_WORD), what, values)


OF_WORDS = (
    Degradation("wrong-words", "words", "share of the words", SHARES, wrong_words),
    Degradation("lost-words", "words", "share of the words", SHARES, lost_words),
    Degradation("cut-text", "words", "share of the words", SHARES, cut_text),
)
