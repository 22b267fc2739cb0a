"""Data sets by name, and what holds for every one of them."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from subsense.data import DATASETS, describe, explain, load
from subsense.data.base import Data, Description, FileSamples, Samples, locate, standardise
from subsense.errors import DataError
from subsense.evaluation.metrics import METRICS
from subsense.modalities import Modalities

IN_FILES = sorted(set(DATASETS) - {"digits"})


@pytest.fixture(scope="module", params=["cmu-mosi", "cwfid", "digits", "utd-mhad"])
def name(request) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def root(name, request):
    return None if name == "digits" else request.getfixturevalue("shared") / "data"


@pytest.fixture(scope="module")
def data(name, root) -> Data:
    return load(name, root=root)


def test_items_have_the_declared_shapes(data):
    for samples in (data.train, data.test):
        inputs, target = samples[0]
        shapes = {name: tuple(int(size) for size in axes.split()) for name, axes in data.modalities.items()}
        assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == shapes
        assert {tensor.dtype for tensor in inputs.values()} == {torch.float32}
        assert target.dtype == torch.int64


def test_default_collate_makes_a_batch(data):
    inputs, target = next(iter(DataLoader(data.test, batch_size=2)))
    assert list(inputs) == list(data.modalities)
    assert {len(tensor) for tensor in inputs.values()} | {len(target)} == {2}


def test_values_are_finite_and_targets_are_classes(data):
    for samples in (data.train, data.test):
        assert all(tensor.isfinite().all() for tensor in samples.inputs.values())
        assert set(samples.targets.unique().tolist()) == set(range(data.num_classes))


def test_no_group_is_in_both_parts(data):
    assert not set(data.train.groups) & set(data.test.groups)


def test_no_sample_is_in_both_parts(data):
    def fingerprints(samples):
        return {
            tuple(tensor[i].double().sum().item() for tensor in samples.inputs.values()) for i in range(len(samples))
        }

    assert not fingerprints(data.train) & fingerprints(data.test)


def test_loading_twice_gives_the_same_bytes(data, name, root):
    again = load(name, root=root)
    for one, other in ((data.train, again.train), (data.test, again.test)):
        assert all(torch.equal(one.inputs[key], other.inputs[key]) for key in one.inputs)
        assert torch.equal(one.targets, other.targets)
        assert one.groups == other.groups


def test_says_whom_to_cite(data, name):
    assert data.name == name
    assert all([data.source, data.licence, data.citation])
    assert data.metric == {"classification": "accuracy", "segmentation": "miou"}[data.task]


def test_unknown_name_is_refused_with_the_near_miss():
    with pytest.raises(DataError, match=r"data set among brats, cmu-mosi.*got 'utd_mhad'\. Did you mean 'utd-mhad'\?"):
        load("utd_mhad")


def test_unknown_option_is_refused_with_the_near_miss():
    with pytest.raises(DataError, match=r"'digits': unknown option 'seeds'.*Did you mean 'seed'\?"):
        load("digits", seeds=3)


@pytest.mark.parametrize("name", IN_FILES)
def test_missing_root_says_what_goes_there_and_where_it_comes_from(name):
    with pytest.raises(DataError, match=rf"{name}: needs root=.*{describe(name).folder}/.*https://"):
        load(name)


@pytest.mark.parametrize("name", IN_FILES)
def test_empty_root_names_the_file_expected(name, tmp_path):
    with pytest.raises(DataError, match=rf"{name}: expected .*{tmp_path}/{describe(name).folder}.*https://"):
        load(name, root=tmp_path)


DESCRIPTION = Description(
    name="set", modalities={"x": "2"}, task="classification", class_names=("a",), metric="accuracy",
    source="https://set.example", licence="free", citation="A. Uthor", folder="set",
)  # fmt: skip


def test_locate_names_the_first_file_that_is_absent(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").touch()
    assert locate(DESCRIPTION, tmp_path, ["a"]) == tmp_path / "set"
    with pytest.raises(
        DataError, match=r"set: expected the file .*set/b,.*https://set\.example.*`subsense ls data set`"
    ):
        locate(DESCRIPTION, tmp_path, ["a", "b"])
    with pytest.raises(DataError, match=r"expected the file .*Set-1\.0/a,"):
        locate(DESCRIPTION, tmp_path, ["a"], folder="Set-1.0")


def test_a_description_says_without_files_what_the_data_are(data, name):
    description = describe(name)
    assert (description.name, description.modalities, description.class_names) == (
        name, data.modalities, data.class_names,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_is_described(name):
    description = describe(name)
    assert description.name == name
    assert len(Modalities(description.modalities)) > 1
    assert all([description.source, description.licence, description.citation])
    assert description.metric in METRICS
    if name != "digits":
        assert f" {description.folder}/" in explain(name)


def test_changes_of_a_loading_go_before_the_description():
    part = FileSamples(read_square, ["a"])
    data = DESCRIPTION.with_samples(part, part, modalities={"x": "3"})
    assert (data.modalities, data.val, data.num_classes, data.train) == ({"x": "3"}, None, 1, part)
    assert DESCRIPTION.modalities == {"x": "2"}


def read_square(index):
    return {"x": torch.full((2,), float(index**2))}, torch.tensor(index)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_samples_are_read_from_files_when_they_are_asked_for(workers):
    samples = FileSamples(read_square, groups=["a", "b", "c", "d"])
    context = "spawn" if workers else None
    batches = list(DataLoader(samples, 2, num_workers=workers, multiprocessing_context=context))
    assert torch.equal(torch.cat([target for _, target in batches]), torch.arange(4))
    assert batches[1][0]["x"].tolist() == [[4, 4], [9, 9]]
    assert len(pickle.loads(pickle.dumps(samples))) == 4


def test_an_index_beyond_the_samples_ends_a_loop():
    samples = FileSamples(read_square, groups=["a", "b"])
    assert [int(target) for _, target in samples] == [0, 1]
    assert int(samples[-1][1]) == 1
    with pytest.raises(IndexError):
        samples[2]


def test_standardise_takes_its_statistics_from_the_training_part_alone():
    train, test = torch.randn(50, 3, generator=torch.manual_seed(0)), torch.full((5, 3), 1e6)
    scaled, _ = standardise(train, test, axes=[0])
    assert torch.equal(scaled, standardise(train, torch.zeros(5, 3), axes=[0])[0])
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(3))


def test_standardise_leaves_a_constant_finite():
    train, test = standardise(torch.ones(4, 1), torch.full((1, 1), 3.0), axes=[0])
    assert train.tolist() == [[0]] * 4
    assert test.tolist() == [[2]]


def test_samples_of_different_number_are_a_mistake():
    with pytest.raises(AssertionError, match=r"differ in number: \[2, 3\]"):
        Samples({"rgb": torch.zeros(3, 1)}, torch.zeros(2), groups=["a", "b"])
