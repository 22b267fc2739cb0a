"""Texts as numbers: word pieces as BERT and ViLT read them, by a checkpoint's vocabulary or by one of training texts.

Word pieces: M. Schuster and K. Nakajima, ICASSP 2012; as in BERT, J. Devlin et al., NAACL 2019 (arXiv 1810.04805).
The work is done by the libraries tokenizers and transformers (Apache-2.0): ``pip install subsense[transformers]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subsense.errors import DataError, FactoryError
from subsense.support.factories import import_factory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ARGUMENTS = ("input_ids", "attention_mask", "token_type_ids")
INSTALL = "pip install subsense[transformers]"


class Texts:
    """Turn a text into a fixed number of tokens, in the three tensors that BERT and ViLT take.

    Args:
        pieces: the vocabulary, in the order of ids, or a tokenizer of the library tokenizers.
        length: number of tokens; longer texts are cut, shorter ones padded.

    >>> texts = Texts([*SPECIAL, "red", "car", "##s"], length=6)
    >>> texts("Red cars")["input_ids"]
    tensor([2, 5, 6, 7, 3, 0])
    >>> texts("")["attention_mask"]
    tensor([1, 1, 0, 0, 0, 0])
    """

    def __init__(self, pieces: list[str] | Tokenizer, length: int) -> None:
        if length < 2:
            raise DataError(f"texts: expected a length of at least 2, a start and an end, but got {length}.")
        self.tokenizer = _tokenizer(pieces) if isinstance(pieces, list) else pieces
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length, pad_id=self.tokenizer.token_to_id("[PAD]"))

    def __call__(self, text: str) -> dict[str, Tensor]:
        """Give `input_ids`, `attention_mask` and `token_type_ids`, each int64 (length,)."""
        encoding = self.tokenizer.encode(text)
        lists = (encoding.ids, encoding.attention_mask, encoding.type_ids)
        return {name: torch.tensor(one) for name, one in zip(ARGUMENTS, lists, strict=True)}


def read_texts(folder: str | Path, length: int) -> Texts:
    """Read the tokenizer of a checkpoint's folder (vocab.txt or tokenizer.json), as transformers does.

    Raises:
        DataError: neither file is there, or transformers isn't installed or can't read them.
    """
    if not any((Path(folder) / name).is_file() for name in ("vocab.txt", "tokenizer.json")):
        raise DataError(
            f"texts: expected the file {Path(folder) / 'vocab.txt'} (or tokenizer.json), but there is none. It comes "
            "with the checkpoint, such as https://huggingface.co/dandelin/vilt-b32-mlm; nothing is downloaded."
        )
    kind = _library("transformers:BertTokenizerFast")
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # the Rust library raises nothing narrower for a damaged file
        raise DataError(f"texts: the tokenizer in {folder} can't be read: {error}") from error
    return Texts(tokenizer, length)


def build_vocabulary(texts: Iterable[str], size: int, min_count: int = 2) -> list[str]:
    """Choose word pieces from training texts: every character, alone and continuing, then the most frequent words.

    A word that isn't among them is spelled by its characters. The same texts give the same list, in any order.

    Args:
        texts: of the training part alone, or what is measured on the test part has seen it.
        size: at most so many pieces; the characters are all kept.
        min_count: a word becomes a piece from so many occurrences.

    >>> build_vocabulary(["red car", "Red bus"], size=100)[-3:]
    ['##s', '##u', 'red']
    """
    split = _splitter()
    counts = Counter(word for text in texts for word in split(text))
    characters = sorted({character for word in counts for character in word})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    frequent = [word for word, count in counts.items() if count >= min_count and len(word) > 1]
    frequent.sort(key=lambda word: (-counts[word], word))
    return pieces + frequent[: max(0, size - len(pieces))]


def _splitter() -> Callable[[str], list[str]]:
    """Give what splits a text as the tokenizer will: lower case, without accents, punctuation apart."""
    normalizer = _library("tokenizers.normalizers:BertNormalizer")()
    splitter = _library("tokenizers.pre_tokenizers:BertPreTokenizer")()
    return lambda text: [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]


def _tokenizer(pieces: list[str]) -> Tokenizer:
    make = _library("tokenizers.implementations:BertWordPieceTokenizer")
    tokenizer: Tokenizer = make(vocab={piece: number for number, piece in enumerate(pieces)})._tokenizer
    return tokenizer


def _library(place: str) -> Any:
    """Import what stands at `package.module:name`, or say what to install."""
    try:
        return import_factory(place)
    except FactoryError as error:
        raise DataError(f"texts: the library {place.split('.')[0].split(':')[0]} isn't installed: {INSTALL}") from error
