"""Compare the peak memory of calibrating with that of one training step on as many rows.

    python -m benchmarks.calibration_memory --root FOLDER_OF_DATA_SETS

UTD-MHAD's network with fresh weights, which memory doesn't depend on, and all 431 training rows as one batch. Peaks are
those of torch's allocator, from the records of its profiler, above what was held before; they are exact.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import subsense as ss
from benchmarks.speed.measuring import peak_bytes
from subsense import data, zoo

WAYS: dict[str, tuple[Any, str]] = {
    "scale + shift": ("ssf", "independent"),
    "scale + shift, rank 4": (["ssf", ss.LoRA(4)], "independent"),
    "additive, scale + shift": ("ssf", "additive"),
    "additive, scale + shift, rank 4": (["ssf", ss.LoRA(4)], "additive"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    torch.set_num_threads(1)
    loaded = data.load("utd-mhad", root=parser.parse_args().root)
    [(inputs, target)] = DataLoader(loaded.train, len(loaded.train))
    print(f"{len(target)} rows\n\n| sets | calibrating, MiB | training step, MiB | ratio |\n|---|---|---|---|")
    for name, (method, sharing) in WAYS.items():
        step = peak_bytes(training_step(loaded.modalities, inputs, target))
        robust = ss.adapt(zoo.build("utd-mhad-transformer"), loaded.modalities, method=method, sharing=sharing)
        peak = peak_bytes(lambda robust=robust: ss.calibrate(robust, [inputs], held_out=0.0, progress=False))
        print(f"| {name} | {peak / 2**20:.0f} | {step / 2**20:.0f} | {peak / step:.2f} |", flush=True)


def training_step(modalities: Any, inputs: Any, target: Any) -> Callable[[], None]:
    """Give one step of today's training: additive scale and shift, each row with a combination of its own."""
    robust = ss.adapt(zoo.build("utd-mhad-transformer"), modalities, sharing="additive").train()
    rows = [robust.modalities.present(one) for one in robust.combinations]
    present = torch.stack([rows[row % len(rows)] for row in range(len(target))])
    robust.locate(inputs)
    optimizer = torch.optim.AdamW(robust.adapter_parameters().values(), lr=1e-3)

    def step() -> None:
        cross_entropy(robust(inputs, present=present), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
