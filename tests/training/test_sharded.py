"""A network split by `fully_shard` trains the sets that one process trains: `train`, one's own loop, save, fold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os
import sys
from pathlib import Path
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
import subsense as ss

torch.set_num_threads(1)
folder, when = Path(sys.argv[1]), sys.argv[2]
state = Accelerator().state
me, count = state.process_index, state.num_processes


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(4, 8)
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(8, 3)

    def forward(self, left, right):
        return self.head(self.blocks(torch.cat([self.left(left), self.right(right)], 1)).mean(1))


def split(network):
    for block in network.blocks:
        fully_shard(block)
    return fully_shard(network)


axes = {"left": "5 3", "right": "4 4"}
generator = torch.Generator().manual_seed(3)
draw = lambda *shape: torch.randn(shape, generator=generator)
rows = [({"left": draw(5, 3), "right": draw(4, 4)}, int(torch.randint(3, (), generator=generator))) for _ in range(24)]
torch.manual_seed(0)
network = split(Net()) if when == "before" else Net()
robust = ss.adapt(network, axes, method=["scale", "lora"], sharing="additive")
if when == "after":
    split(robust.network)
loader = DataLoader(rows, batch_size=12 // count)
ss.train(robust, loader, loss=cross_entropy, epochs=3, lr=0.02, safe=False, progress=False)
trained = {name: one.clone() for name, one in robust.adapter_state_dict().items()}
results = str(ss.evaluate(robust, DataLoader(rows, batch_size=8), metric="accuracy"))
ss.save(robust, folder / when)
robust = ss.load(folder / when, robust.detach())
left = {"left": torch.stack([x["left"] for x, _ in rows])}
with torch.no_grad():
    output, plain = robust.eval()(left), ss.fold(robust, "left")
    args, kwargs = ss.prepare(robust, left)
    folded = plain(*args, **kwargs)
robust.train()
optimizer = torch.optim.SGD(list(robust.adapter_parameters().values()), lr=0.1)
present = torch.tensor([[True, False], [False, True], [True, True], [True, False]] * 6)
mine = list(range(me, 24, count))
for _ in range(3):
    optimizer.zero_grad()
    x = {name: torch.stack([rows[row][0][name] for row in mine]) for name in axes}
    cross_entropy(robust(x, present[mine]), torch.tensor([rows[row][1] for row in mine])).backward()
    optimizer.step()
found = {"trained": trained, "own": robust.adapter_state_dict(), "results": results, "output": output, "folded": folded}
torch.save(found, folder / f"{when}-{me}.pt")
state.wait_for_everyone()
if count > 1:
    state.destroy_process_group()
"""


def run(folder: Path, when: str, count: int) -> list[dict[str, torch.Tensor]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable]
    if count > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    done = subprocess.run(
        [*launch, str(script), str(folder), when], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{when}-{index}.pt") for index in range(count)]


CASES = [("before", 2), *[pytest.param(*case, marks=pytest.mark.slow) for case in (("after", 2), ("before", 3))]]


@pytest.mark.parametrize(("when", "count"), CASES)
def test_some_processes_train_what_one_trains(tmp_path: Path, when: str, count: int) -> None:
    (one,) = run(tmp_path, "whole", 1)
    assert max(float(value.abs().max()) for name, value in one["trained"].items() if ":scale" in name) > 0.01
    for found in run(tmp_path, when, count):
        for kind in ("trained", "own"):
            for name, value in one[kind].items():
                torch.testing.assert_close(found[kind][name], value, atol=1e-6, rtol=0.0)
        assert found["results"] == one["results"]
        for name in ("output", "folded"):
            torch.testing.assert_close(found[name], one["output"], atol=1e-6, rtol=0.0)
