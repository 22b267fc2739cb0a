"""CMU-MOSI: sentiment of 2,199 spoken utterances, from what is said, how it sounds, and how the speaker looks.

Utterance-level features as published with bc-LSTM. They are known to show little recovery: without text a network stays
below the majority rate of the test part (62.1 %), adapted or not. Text alone fits the training part almost at once, as
features do that were themselves learnt from those labels. The set serves to try a pipeline.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from subsense.data.base import Data, Description, Samples, locate, standardise

FEATURES = {"text": 100, "audio": 73, "video": 100}
PARTS = ("train", "test")
DESCRIPTION = Description(
    name="cmu-mosi",
    modalities={name: str(number) for name, number in FEATURES.items()},
    task="classification",
    class_names=("negative", "positive"),
    metric="accuracy",
    source="https://github.com/declare-lab/multimodal-sentiment-analysis",
    licence="features: MIT; CMU-MOSI: its own research terms",
    citation="A. Zadeh, R. Zellers, E. Pincus, L.-P. Morency, Multimodal sentiment intensity analysis in videos, "
    "IEEE Intelligent Systems 31(6), 2016; features: S. Poria et al., Context-dependent sentiment analysis in "
    "user-generated videos, ACL 2017",
    folder="cmu_mosi",
)


def cmu_mosi(root: str | Path | None = None) -> Data:
    """Load the utterances of `root/cmu_mosi/`: 1,447 to train, 752 to test, no video in both.

    Layout, as published with bc-LSTM::

        cmu_mosi/
          text_train.csv, text_test.csv              100 numbers and the label (0 negative, 1 positive) in each row
          audio_train.csv, audio_test.csv            73 numbers and the label
          video_train.csv, video_test.csv            100 numbers and the label
          index_text_train.csv, index_text_test.csv  column 0: the row of transcripts.csv
          transcripts.csv                            id, text, speaker, label

    `text` "100", `audio` "73", `video` "100"; each feature is standardised with the training part's mean and deviation.

    The published tables are sorted by label, then by video, so what stands beside an utterance gives its label away. A
    network that reads neighbours needs the order of speaking: the numbers in the transcripts' ids, ``VIDEO_12``.

    Raises:
        DataError: a file is absent or damaged, or the three modalities' labels disagree.
    """
    tables = [f"{kind}_{part}.csv" for part in PARTS for kind in (*FEATURES, "index_text")]
    folder = locate(DESCRIPTION, root, [*tables, "transcripts.csv"])
    columns = {name: [_table(folder / f"{name}_{part}.csv", FEATURES[name] + 1) for part in PARTS] for name in FEATURES}
    inputs = {name: standardise(train[:, :-1], test[:, :-1], axes=(0,)) for name, (train, test) in columns.items()}
    train, test = (
        Samples(
            {name: tensors[number].float() for name, tensors in inputs.items()},
            _labels(folder, {name: tables[number] for name, tables in columns.items()}),
            _videos(folder, part),
        )
        for number, part in enumerate(PARTS)
    )
    return DESCRIPTION.with_samples(train, test)


def _labels(folder: Path, columns: dict[str, Tensor]) -> Tensor:
    """Take the last column, which every modality's file repeats."""
    labels = {name: table[:, -1].long() for name, table in columns.items()}
    for name, label in labels.items():
        if not torch.equal(label, labels["text"]):
            raise DESCRIPTION.error(f"{folder}: expected the same labels for text and {name}, but they differ.")
    return labels["text"]


def _videos(folder: Path, part: str) -> list[str]:
    """Name the video of each utterance: `index_text` points to a row of the transcripts, whose id is `video_number`."""
    with (folder / "transcripts.csv").open(encoding="utf-8-sig", newline="") as file:
        identifiers = [row[0] for row in csv.reader(file)]
    rows = _table(folder / f"index_text_{part}.csv", FEATURES["text"] + 1)[:, 0].long().tolist()
    return [identifiers[row].rpartition("_")[0] for row in rows]


def _table(path: Path, num_columns: int) -> Tensor:
    """Read a file of quoted numbers as float64 (rows, num_columns)."""
    try:
        table = np.loadtxt(path, delimiter=",", quotechar='"', ndmin=2, encoding="utf-8-sig")
    except ValueError as error:
        raise DESCRIPTION.error(f"cannot read {path}: {error}.") from error
    if table.shape[1] != num_columns:
        raise DESCRIPTION.error(f"{path}: expected {num_columns} columns, but got {table.shape[1]}.")
    return torch.from_numpy(table)
