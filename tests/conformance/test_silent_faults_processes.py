"""Fault 5: under distributed data parallel, sets that are switched in after wrapping don't get their gradients reduced.

Two processes with gloo really run: they must end with the sets of one process that sees the same global batch.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import subsense as ss
from subsense import RobustModel
from training_examples import SPEC, Noisy, adapters, make_network, make_robust

WORLD = 2
ROWS = 8  # of the global batch
TOLERANCE = 1e-6


class Double(Noisy):
    """The same data in float64."""

    def __getitem__(self, row: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs, target = super().__getitem__(row)
        return {name: value.double() for name, value in inputs.items()}, target


def loader(rows: int, shuffle: bool) -> DataLoader[Any]:
    return DataLoader(Noisy(noise=0.0), batch_size=rows, shuffle=shuffle)


def trained_jointly(rows: int) -> RobustModel:
    """Every row draws a combination; batches are shared out by the training loop."""
    robust = make_robust()
    ss.train(robust, loader(rows, shuffle=True), loss=cross_entropy, epochs=3, progress=False)
    return robust


def trained_in_double(rows: int, **options: Any) -> RobustModel:
    """Sum float32 gradients in another order, and AdamW makes much of the last bit; in float64 there is no excuse."""
    spec = {name: f"{size}:float64" for name, size in SPEC.items()}
    robust = ss.adapt(make_network().double(), spec, method=["ssf", "lora"], sharing="additive")
    data = DataLoader(Double(noise=0.0), batch_size=rows, shuffle=True)
    ss.train(robust, data, loss=cross_entropy, epochs=3, progress=False, **options)
    return robust


def trained_over_severities(rows: int) -> RobustModel:
    """Rows that draw qualities, too, and a degradation without noise of its own, which each process would draw."""
    return trained_in_double(rows, degrade="saturation")


def trained_separately(rows: int) -> RobustModel:
    """One combination after the other, each switched in when the processes are long under way."""
    robust = make_robust(method=["ssf", "lora"])
    ss.train(robust, loader(rows, shuffle=False), loss=cross_entropy, epochs=2, strategy="separate", progress=False)
    return robust


def trained_by_hand(rows: int, rank: int = 0, wrap: Any = lambda model: model) -> RobustModel:
    """One's own loop; under torch's wrapper where there are several processes."""
    robust = make_robust()
    model = wrap(robust.train())
    optimiser = torch.optim.SGD(robust.adapter_parameters().values(), lr=0.1)
    for step, (inputs, target) in enumerate(loader(ROWS, shuffle=False)):
        mine = slice(rank * rows, (rank + 1) * rows)
        names = robust.combinations[step % len(robust.combinations)]
        optimiser.zero_grad()
        cross_entropy(model({name: inputs[name][mine] for name in names}), target[mine]).backward()
        optimiser.step()
    return robust


def one_process(rank: int, world: int, folder: Path) -> None:
    """Be one of the processes: train in all ways, and write down the sets."""
    from accelerate import Accelerator

    Accelerator()  # joins the group
    torch.manual_seed(rank)  # the processes' own random states differ
    rows = ROWS // world
    save_file(adapters(trained_jointly(rows)), folder / f"joint-{rank}.safetensors")
    save_file(adapters(trained_in_double(rows)), folder / f"double-{rank}.safetensors")
    save_file(adapters(trained_over_severities(rows)), folder / f"severities-{rank}.safetensors")
    save_file(adapters(trained_separately(rows)), folder / f"separate-{rank}.safetensors")
    with pytest.raises(ss.PlanError, match=r"DistributedDataParallel.*`\.module`"):
        ss.adapt(DistributedDataParallel(make_network()), SPEC)
    by_hand = trained_by_hand(rows, rank, lambda model: DistributedDataParallel(model, find_unused_parameters=True))
    save_file(adapters(by_hand), folder / f"hand-{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the processes, as torchrun would."""
    folder = tmp_path_factory.mktemp("processes")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(WORLD)]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [*launch, __file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return folder


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    assert one.keys() == other.keys()
    return {name: float((value - other[name]).abs().max()) for name, value in one.items()}


@pytest.mark.parametrize(
    ("way", "alone"),
    [
        ("joint", trained_jointly),
        ("double", trained_in_double),
        ("severities", trained_over_severities),
        ("separate", trained_separately),
        ("hand", trained_by_hand),
    ],
)
def test_fault_05_two_processes_give_the_sets_of_one(launched: Path, way: str, alone: Any) -> None:
    # peft: gradients of a set that `set_adapter` makes trainable after wrapping stay each process's own.
    first, second = (load_file(launched / f"{way}-{rank}.safetensors") for rank in range(WORLD))
    assert not any(differences(first, second).values()), "the processes end with different sets"
    expected = adapters(alone(ROWS))
    moved = {name: bool((value != 0).any()) for name, value in expected.items()}
    assert all(moved.values())
    worst = max(differences(first, expected).items(), key=lambda item: item[1])
    assert worst[1] <= TOLERANCE, worst


if __name__ == "__main__":
    torch.set_num_threads(1)
    one_process(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(sys.argv[1]))
