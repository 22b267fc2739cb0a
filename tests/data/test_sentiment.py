"""CMU-MOSI and CMU-MOSEI, in files as MulT and MMSA release them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sentiment_files import COUNTS, mmsa_release, mult_release, write
from subsense.data import load
from subsense.errors import DataError
from subsense.testing import check_dataset

SHAPES = {"text": (5, 7), "audio": (6, 3), "vision": (4, 2)}
FILES: dict[tuple[str, str, bool], tuple[str, Callable[[], Any]]] = {
    ("mosi", "mult", True): ("mosi_data.pkl", lambda: mult_release(SHAPES)),
    ("mosi", "mult", False): ("mosi_data_noalign.pkl", lambda: mult_release(SHAPES)),
    ("mosi", "mmsa", True): ("aligned_50.pkl", lambda: mmsa_release(SHAPES)),
    ("mosi", "mmsa", False): ("unaligned_50.pkl", lambda: mmsa_release(SHAPES)),
    ("mosei", "mult", True): ("mosei_senti_data.pkl", lambda: mult_release(SHAPES, texts=True)),
    ("mosei", "mult", False): ("mosei_senti_data_noalign.pkl", lambda: mult_release(SHAPES, texts=True)),
    ("mosei", "mmsa", True): ("aligned_50.pkl", lambda: mmsa_release(SHAPES)),
    ("mosei", "mmsa", False): ("unaligned_50.pkl", lambda: mmsa_release(SHAPES)),
}


@pytest.mark.parametrize(("name", "release", "aligned"), FILES)
def test_reads_every_file_of_both_releases(tmp_path: Path, name: str, release: str, aligned: bool) -> None:
    file, make = FILES[name, release, aligned]
    content = make()
    write(tmp_path / name / file, content, protocol=2 if release == "mult" else 4)
    data = load(name, tmp_path, release=release, aligned=aligned)
    assert data.modalities == {"text": "5 7", "audio": "6 3", "vision": "4 2"}
    assert (data.task, data.class_names) == ("regression", ())
    for split, part in (("train", data.train), ("valid", data.val), ("test", data.test)):
        assert part is not None
        assert len(part) == COUNTS[split]
        check_dataset(part, data.modalities)
        inputs, target = part[1]
        for modality in SHAPES:
            expected = torch.tensor(content[split][modality][1], dtype=torch.float32)
            torch.testing.assert_close(inputs[modality], expected, rtol=0, atol=0)
        label = content[split]["labels" if release == "mult" else "regression_labels"][1]
        torch.testing.assert_close(target, torch.tensor(label).reshape(1), rtol=0, atol=0)
        assert part.groups[:4] == (f"{split}-0",) * 3 + (f"{split}-1",)


def test_what_was_not_measured_becomes_zero_in_audio_and_vision(tmp_path: Path) -> None:
    content = mult_release(SHAPES)
    content["train"]["vision"][1, 2, 0] = np.nan
    write(tmp_path / "mosi/mosi_data.pkl", content)
    train = load("mosi", tmp_path, aligned=True).train
    assert (train[0][0]["audio"][0, 0], train[1][0]["vision"][2, 0]) == (0, 0)
    assert all(one.isfinite().all() for inputs, _ in train for one in inputs.values())


def test_a_file_that_is_not_there_is_named_and_so_is_one_that_is(tmp_path: Path) -> None:
    write(tmp_path / "mosi/aligned_50.pkl", mmsa_release(SHAPES))
    message = (
        rf"mosi: expected the file {tmp_path}/mosi/mosi_data_noalign\.pkl, but there is none; "
        r"there is aligned_50\.pkl, which release='mmsa' with aligned=true reads\. The data come from https://"
    )
    with pytest.raises(DataError, match=message):
        load("mosi", tmp_path)
    with pytest.raises(DataError, match=r"mosei: expected the file .*/mosei/mosei_senti_data_noalign\.pkl.*https://"):
        load("mosei", tmp_path)
    with pytest.raises(DataError, match=r"release to be one of mult, mmsa, but found 'msa'.*Did you mean 'mmsa'\?"):
        load("mosi", tmp_path, release="msa")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e39, -1e39])
@pytest.mark.parametrize("name", ["audio", "vision"])
def test_what_is_no_number_of_either_sign_is_zero_and_noted_or_refused(tmp_path: Path, name: str, value: float) -> None:
    content = mult_release(SHAPES)
    content["train"]["audio"][0, 0, 0] = 1.0
    content["test"]["audio"][0, 0, 0] = 1.0
    content["test"][name] = content["test"][name].astype(np.float64)
    content["test"][name][2, 1, 0] = value
    write(tmp_path / "mosi/mosi_data.pkl", content)
    place = rf"1 others, the first {value} at row 2, time 1, feature 0"
    data = load("mosi", tmp_path, aligned=True)
    assert data.test[2][0][name][1, 0] == 0
    (note,) = [note for note in data.notes if note.startswith(f"test, {name}: ")]
    assert place in note
    content["valid"]["audio"][0, 0, 0] = 1.0
    write(tmp_path / "mosi/mosi_data.pkl", content)
    with pytest.raises(DataError, match=rf"(audio|{name})'\]: expected finite numbers.*; not_finite='zero' puts 0"):
        load("mosi", tmp_path, aligned=True, not_finite="refuse")
    with pytest.raises(DataError, match=r"not_finite to be 'zero' or 'refuse', but found 'zeros'.*Did you mean 'zero'"):
        load("mosi", tmp_path, aligned=True, not_finite="zeros")


def changed(split: str, key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    def spoil(content: dict[str, Any]) -> Any:
        return content | {split: content[split] | {key: change(content[split][key])}}

    return spoil


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {name: value for name, value in content.items() if name != key}


def infinite(values: Any) -> Any:
    values = values.copy()
    values[0, 0, 0] = np.inf
    return values


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no dict": (lambda content: [1], r"mosi_data\.pkl: expected a dict with train, valid, test, but found list"),
    "a split": (without("valid"), r"expected a dict with train, valid, test, but found \['train', 'test'\]"),
    "a modality": (
        lambda content: content | {"test": without("audio")(content["test"])},
        r"mosi_data\.pkl\['test'\]: expected a dict with text, audio, vision, labels, id, but found \['text', 'vision'",
    ),
    "an axis": (changed("train", "text", lambda x: x[..., 0]), r"\['train'\]\['text'\]: .*but found float64 \(24, 5\)"),
    "texts": (changed("train", "vision", lambda x: x.astype("U3")), r"\['vision'\]: expected an array .*found <U3"),
    "utterances": (changed("test", "audio", lambda x: x[1:]), r"\['audio'\]: expected 12 utterances, but found 11"),
    "ids": (changed("test", "id", lambda x: x[1:]), r"\['id'\]: expected 12 of them, but found 11"),
    "another length": (changed("test", "text", lambda x: x[:, 1:]), "the same shape in all splits, but found .*4 7"),
    "nan in text": (changed("valid", "text", lambda x: x * np.nan), r"\['text'\]: expected finite numbers"),
    "labels of emotions": (
        changed("train", "labels", lambda x: np.repeat(x, 4, 1)),
        r"\['labels'\]: expected a number for each utterance, but found float32 \(24, 4, 1\)",
    ),
    "labels in percent": (
        changed("train", "labels", lambda x: x * 100),
        "expected sentiment from -3 to 3, but found -",
    ),
    "labels that are none": (changed("train", "labels", lambda x: None), "expected a number for each utterance"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_something_else_in_it_is_refused(tmp_path: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    write(tmp_path / "mosi/mosi_data.pkl", spoil(mult_release(SHAPES)))
    with pytest.raises(DataError, match=rf"mosi: {tmp_path}.*{message}.*The data come from"):
        load("mosi", tmp_path, aligned=True)


def test_a_malicious_file_does_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    write(tmp_path / "mosi/mosi_data.pkl", mult_release(SHAPES) | {"more": Evil()})
    with pytest.raises(DataError, match=r"mosi: .*but found the name 'Path\.touch' in 'pathlib'.*The data come from"):
        load("mosi", tmp_path, aligned=True)
    assert not (tmp_path / "ran").exists()
