"""Data sets by name, and what holds for every one of them."""

import pytest
import torch
from torch.utils.data import DataLoader

from subsense.data import DATASETS, load
from subsense.data.base import Data, Samples, locate, standardise
from subsense.errors import DataError


@pytest.fixture(scope="module", params=sorted(DATASETS))
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
    with pytest.raises(DataError, match=r"data set among cmu-mosi.*got 'utd_mhad'\. Did you mean 'utd-mhad'\?"):
        load("utd_mhad")


def test_unknown_option_is_refused_with_the_near_miss():
    with pytest.raises(DataError, match=r"'digits': unknown option 'seeds'.*Did you mean 'seed'\?"):
        load("digits", seeds=3)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_missing_root_says_what_goes_there_and_where_it_comes_from(name):
    with pytest.raises(DataError, match=rf"{name} needs root=.*{name.replace('-', '_')}/.*https://"):
        load(name)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_empty_root_names_the_file_expected(name, tmp_path):
    with pytest.raises(DataError, match=rf"{name}: expected the file {tmp_path}/{name.replace('-', '_')}/.*https://"):
        load(name, root=tmp_path)


def test_locate_names_the_first_file_that_is_absent(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").touch()
    assert locate("set", tmp_path, "set", ["a"], "") == tmp_path / "set"
    with pytest.raises(DataError, match=r"expected the file .*set/b,"):
        locate("set", tmp_path, "set", ["a", "b"], "")


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
