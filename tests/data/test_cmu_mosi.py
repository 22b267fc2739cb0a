import csv

import numpy as np
import pytest
import torch

from subsense.data.cmu_mosi import cmu_mosi
from subsense.errors import DataError

FEATURES = {"text": 100, "audio": 73, "video": 100}


def write_table(path, table):
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(table.tolist())


@pytest.fixture
def root(tmp_path):
    """Write four utterances to train and two to test, from three videos."""
    folder, draw = tmp_path / "cmu_mosi", np.random.default_rng(0)
    folder.mkdir()
    for part, rows in (("train", [0, 1, 2, 3]), ("test", [4, 5])):
        labels = np.array(rows)[:, None] % 2
        for name, number in FEATURES.items():
            write_table(folder / f"{name}_{part}.csv", np.hstack([draw.normal(size=(len(rows), number)), labels]))
        write_table(folder / f"index_text_{part}.csv", np.hstack([np.array(rows)[:, None], np.zeros((len(rows), 100))]))
    videos = ["a_b_1", "a_b_2", "c_1", "c_2", "d_1", "d_2"]
    write_table(folder / "transcripts.csv", np.array([[video, "WORDS, AND MORE", "1", "0"] for video in videos]))
    return tmp_path


def test_counts_of_the_real_data(shared):
    data = cmu_mosi(shared / "data")
    assert (len(data.train), len(data.test)) == (1447, 752)
    assert (len(set(data.train.groups)), len(set(data.test.groups))) == (62, 31)
    assert data.test.targets.float().mean().item() == pytest.approx(0.621, abs=0.001)
    for part in (data.train, data.test):  # sorted by label, as the docstring warns
        assert int((part.targets.diff() != 0).sum()) == 1


def test_reads_features_labels_and_videos(root):
    data = cmu_mosi(root)
    assert {name: tuple(tensor.shape) for name, tensor in data.train.inputs.items()} == {
        "text": (4, 100),
        "audio": (4, 73),
        "video": (4, 100),
    }
    assert data.train.targets.tolist() == [0, 1, 0, 1]
    assert data.train.groups == ("a_b", "a_b", "c", "c")
    assert data.test.groups == ("d", "d")


def test_standardisation_never_sees_the_test_videos(root):
    before = cmu_mosi(root).train
    for name, number in FEATURES.items():
        write_table(root / "cmu_mosi" / f"{name}_test.csv", np.hstack([np.full((2, number), 1e3), [[0], [1]]]))
    after = cmu_mosi(root).train
    assert all(torch.equal(before.inputs[name], after.inputs[name]) for name in before.inputs)
    torch.testing.assert_close(before.inputs["audio"].mean(0), torch.zeros(73), atol=1e-6, rtol=0)


def test_the_label_is_no_feature(root):
    data = cmu_mosi(root)
    for name in FEATURES:
        table = np.loadtxt(root / "cmu_mosi" / f"{name}_train.csv", delimiter=",", quotechar='"')[:, :-1]
        expected = (table - table.mean(0)) / table.std(0)
        torch.testing.assert_close(data.train.inputs[name], torch.from_numpy(expected).float())


def test_labels_that_disagree_are_refused(root):
    write_table(root / "cmu_mosi" / "video_test.csv", np.zeros((2, 101)))
    with pytest.raises(DataError, match="the same labels for text and video"):
        cmu_mosi(root)


def test_wrong_number_of_columns_is_named(root):
    write_table(root / "cmu_mosi" / "audio_train.csv", np.zeros((4, 70)))
    with pytest.raises(DataError, match=r"audio_train\.csv: expected 74 columns, but got 70"):
        cmu_mosi(root)


def test_text_where_a_number_should_be_is_named(root):
    (root / "cmu_mosi" / "audio_train.csv").write_text('"1.0","loud"\n')
    with pytest.raises(DataError, match=r"cmu-mosi: cannot read .*audio_train\.csv.*loud"):
        cmu_mosi(root)
