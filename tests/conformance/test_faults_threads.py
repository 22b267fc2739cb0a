"""One model for many callers: threads, copies, loaders in other processes, ten thousand times on and off."""

import copy
import gc
import random
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import subsense as ss
from networks import SEQUENCES, TOWERS, draw, make, only, snapshot, with_sets

THREADS = 8


class Rows(Dataset[tuple[dict[str, torch.Tensor], torch.Tensor]]):
    """Give rows of random inputs, at the top of a module so that other processes find it."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return {name: value[0] for name, value in draw(TOWERS, rows=1, seed=index).items()}, torch.tensor(index % 3)


@pytest.mark.parametrize(("network", "calls"), [("towers", 2000), ("sequences", 200)])
def test_threads_get_their_own_rows(network: str, calls: int) -> None:
    module, options = make(network)
    robust = with_sets(ss.adapt(module, **options))
    inputs = draw(options["modalities"])
    present = torch.tensor([[True, True], [False, True], [True, False], [True, True]])
    with torch.no_grad():
        robust(inputs, present=present)
        expected = {str(one): robust(only(inputs, one)) for one in robust.combinations} | {
            "+".join(inputs): robust(inputs)
        }
        expected["mixed"] = robust(inputs, present=present)

    def call(seed: int) -> bool:
        asked = random.Random(seed).choice(list(expected))
        with torch.no_grad():
            mixed = asked == "mixed"
            output = robust(inputs, present=present) if mixed else robust(only(inputs, asked.split("+")))
        return output.equal(expected[asked])

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(call, range(calls)))


def test_threads_that_fail_do_not_disturb_the_others() -> None:
    robust = with_sets(ss.adapt(make("towers")[0], TOWERS))
    inputs = draw(TOWERS)
    expected = robust(only(inputs, ["left"]))

    def call(seed: int) -> bool:
        if seed % 2:
            with pytest.raises(ss.InputError):
                robust({"left": inputs["left"][:, :1]})
        return robust(only(inputs, ["left"])).equal(expected)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(call, range(200)))


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    robust = with_sets(ss.adapt(make("towers")[0], TOWERS))
    inputs = only(draw(TOWERS), ["left"])
    expected, twin = robust(inputs), copy.deepcopy(robust)
    assert twin(inputs).equal(expected)
    with torch.no_grad():
        for parameter in twin.adapter_parameters().values():
            parameter.zero_()
    assert not twin(inputs).equal(expected)
    assert robust(inputs).equal(expected)
    twin.detach()
    assert robust(inputs).equal(expected)


def test_a_copy_of_the_adapted_network_computes_as_the_network_did() -> None:
    network, inputs = make("towers")[0], draw(TOWERS)
    expected = network(**inputs)
    with_sets(ss.adapt(network, TOWERS))
    assert copy.deepcopy(network)(**inputs).equal(expected)


def test_the_networks_state_dict_is_saved_and_loaded_while_adapted(tmp_path: Path) -> None:
    network = make("sequences")[0]
    ss.adapt(network, SEQUENCES)
    torch.save(network.state_dict(), tmp_path / "network.pt")
    other = make("sequences", seed=1)[0]
    other.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    assert snapshot(other)["bytes"] == snapshot(make("sequences")[0])["bytes"]


@pytest.mark.slow
def test_loaders_in_spawned_processes_train_the_same_sets() -> None:
    def trained(**workers: object) -> dict[str, nn.Parameter]:
        robust = ss.adapt(make("towers")[0], TOWERS)
        loader = DataLoader(Rows(), 4, shuffle=True, generator=torch.Generator(), **workers)
        ss.train(robust, loader, loss=nn.CrossEntropyLoss(), epochs=2, progress=False)
        return robust.adapter_parameters()

    here, there = trained(), trained(num_workers=2, multiprocessing_context="spawn")
    assert all(here[name].equal(there[name]) for name in here)


@pytest.mark.parametrize("cycles", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_adapting_and_detaching_leaves_nothing(cycles: int) -> None:
    network = make("towers")[0]
    before = snapshot(network)

    def cycle(count: int) -> None:
        for _ in range(count):
            ss.adapt(network, TOWERS).detach()
        gc.collect()

    cycle(100)
    tensors, peak = count_tensors(), peak_memory()
    cycle(cycles)
    assert snapshot(network) == before
    assert count_tensors() == tensors
    assert peak_memory() - peak < 20 << 20


def count_tensors() -> int:
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
