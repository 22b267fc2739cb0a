"""Measure the peak memory of each process that trains adapters on a network split between processes by FSDP2.

    MALLOC_MMAP_THRESHOLD_=65536 torchrun --nproc_per_node 2 -m benchmarks.sharded_memory

A transformer of a billion parameters, made without memory and given it once it is split, so that no process ever holds
all of it. Peaks are the kernel's (VmHWM), above what the process held before the network was made, a small one having
been trained. Without that environment variable glibc keeps what was freed, and the peak is that of its heap.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import subsense as ss

AXES = {"image": "1 32", "sound": "1 16"}


class Network(nn.Module):
    """(batch, 1, 32), (batch, 1, 16) -> (batch, 5): blocks of a transformer over the tokens of both."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.image, self.sound = nn.Linear(32, width), nn.Linear(16, width)
        layers = (nn.TransformerEncoderLayer(width, 8, 4 * width, 0.0, batch_first=True) for _ in range(blocks))
        self.blocks, self.head = nn.Sequential(*layers), nn.Linear(width, 5)

    def forward(self, image: Tensor, sound: Tensor) -> Tensor:
        return self.head(self.blocks(torch.cat([self.image(image), self.sound(sound)], 1)).mean(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=80)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    state = Accelerator(cpu=True).state
    train(adapted(64, 2)[0], 1, state.num_processes)  # what is imported and opened on the way is no part of it
    gc.collect()
    before = memory("VmRSS")
    robust, whole = adapted(options.width, options.blocks)
    held = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    start = time.perf_counter()
    train(robust, options.steps, state.num_processes)
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
    adapters = 4 * sum(one.numel() for one in robust.banks.parameters()) / 2**20
    share = whole / state.num_processes + 4 * adapters  # parameters, gradients, and AdamW's two moments
    for turn in range(state.num_processes):
        torch.distributed.barrier()
        if turn == state.process_index:
            print(
                f"process {turn}: network {whole:.0f} MiB, its share and {adapters:.1f} MiB of adapters with their "
                f"gradients and moments {share:.0f} MiB; held after adapt {held - before:.0f} MiB, "
                f"peak in training {peak:.0f} MiB, {peak / share:.3f} of that; {options.steps} steps, {seconds:.0f} s",
                flush=True,
            )


def train(robust: ss.RobustModel, steps: int, processes: int) -> None:
    """Train some steps of two rows for each process."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tuple(map(int, axes.split())) for name, axes in AXES.items()}
    rows = [
        ({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, row % 5)
        for row in range(2 * steps * processes)
    ]
    ss.train(robust, DataLoader(rows, 2), loss=cross_entropy, epochs=1, safe=False, progress=False)


def adapted(width: int, blocks: int) -> tuple[ss.RobustModel, float]:
    """Make a split network, adapt it, and say what it would take whole, in MiB."""
    with torch.device("meta"):
        network = Network(width, blocks)
    whole = sum(one.numel() * one.element_size() for one in network.parameters()) / 2**20
    for block in network.blocks:
        for part in (block.self_attn, block.linear1, block.linear2):  # what is gathered at once
            fully_shard(part)
        fully_shard(block)
    fully_shard(network)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for one in network.parameters():
            local = one.to_local()
            local.normal_(0, 0.02) if one.dim() > 1 else local.fill_(1.0)
    return ss.adapt(network, AXES, method="ssf", sharing="additive"), whole


def memory(name: str) -> float:
    """Read a number of this process's memory from the kernel, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


if __name__ == "__main__":
    main()
