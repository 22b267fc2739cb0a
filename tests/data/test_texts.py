"""Texts as word pieces: the same numbers as transformers, and a vocabulary of training texts alone."""

from pathlib import Path

import pytest

from subsense.data.formats.texts import SPECIAL, Texts, build_vocabulary, read_texts
from subsense.errors import DataError

transformers = pytest.importorskip("transformers")

TITLES = ["Éclairs, the best!", "best eclair of the year", "Keycap: *", "the year's best & only", "日本 flag"]


def test_numbers_are_those_of_transformers(tmp_path: Path) -> None:
    pieces = build_vocabulary(TITLES, 200)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), "utf-8")
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    ours, read = Texts(pieces, 9), read_texts(tmp_path, 9)
    for text in [*TITLES, "", "unseen wörds", "the best " * 9]:
        expected = theirs(text, padding="max_length", truncation=True, max_length=9)
        for made in (ours(text), read(text)):
            assert {name: tensor.tolist() for name, tensor in made.items()} == {
                name: expected[name] for name in ("input_ids", "attention_mask", "token_type_ids")
            }


def test_a_vocabulary_has_characters_and_frequent_words() -> None:
    pieces = build_vocabulary(TITLES, 200)
    assert tuple(pieces[:5]) == SPECIAL
    assert pieces[-3:] == ["best", "the", "year"]
    assert {"é", "eclairs"}.isdisjoint(pieces)
    assert {"e", "##e", "*", "日"} <= set(pieces)
    assert len(set(pieces)) == len(pieces)


def test_the_order_of_texts_does_not_matter() -> None:
    assert build_vocabulary(TITLES, 200) == build_vocabulary(reversed(TITLES), 200)


def test_words_are_dropped_where_there_is_no_room() -> None:
    whole = build_vocabulary(TITLES, 200)
    assert build_vocabulary(TITLES, len(whole) - 1) == whole[:-1]
    assert build_vocabulary(TITLES, 0) == whole[:-3]


def test_the_most_frequent_word_comes_first() -> None:
    assert build_vocabulary(["zoo apple", "apple zoo zoo"], 200)[-2:] == ["zoo", "apple"]


def test_a_word_never_seen_is_spelled() -> None:
    pieces = build_vocabulary(TITLES, 200)
    ids = Texts(pieces, 8)("beef")["input_ids"].tolist()
    assert [pieces[number] for number in ids] == ["[CLS]", "b", "##e", "##e", "##f", "[SEP]", "[PAD]", "[PAD]"]


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"expected the file {tmp_path}/vocab.txt .*nothing is downloaded"):
        read_texts(tmp_path, 9)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=f"the tokenizer in {tmp_path} can't be read"):
        read_texts(tmp_path, 9)


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(DataError, match="a length of at least 2"):
        Texts(list(SPECIAL), 1)


def test_without_tokenizers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers.normalizers", None)
    with pytest.raises(DataError, match=r"tokenizers isn't installed: pip install subsense\[transformers\]"):
        build_vocabulary(TITLES, 10)
