"""Compare what is done about gradients that a zero branch makes explode: nothing, a clip where they are, a clip of all.

    OMP_NUM_THREADS=1 python benchmarks/steep_gradients.py --root FOLDER_OF_DATA_SETS

Networks on the three series of UTD-MHAD: encoders without biases whose features are divided by their length or spread
(`F.normalize`, RMSNorm, LayerNorm), and MulT, whose projections have no biases and meet a LayerNorm. Each is
trained with everything present, then adapted jointly, `safe=False`. With each seed another of the four training
subjects is held out and measured on; the test subjects have no part in it. `where steep` clips at the sites beyond 100
times the loss, as `subsense.train` does by default; `beyond 1000` moves that threshold. Prints a Markdown table: mean
accuracy over the six incomplete combinations (mean and spread over seeds), and the largest ratio of gradient to loss.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import subsense as ss
from subsense import data, zoo
from subsense.training import baselines, gradients
from subsense.zoo.mult import PackedAttention

SERIES = {"skeleton": "25 60", "accelerometer": "25 3", "gyroscope": "25 3"}
EVERY = {"skeleton": 2, "accelerometer": 4, "gyroscope": 4}
CLASSES = 27
WAYS = {
    "nothing": (float("inf"), None),
    "beyond 1000": (1000.0, None),
    "where steep (default)": (100.0, None),
    "all, clip=1.0": (float("inf"), 1.0),
}


def rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[1:], eps=1e-8)


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[1:])


def guarded(epsilon: float, x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + epsilon**2).sqrt()


class Normalised(nn.Module):
    """Divide the features of three encoders without biases by a length or spread."""

    def __init__(self, norm: Callable[[Tensor], Tensor] = F.normalize, width: int = 64) -> None:
        super().__init__()
        self.norm = norm
        sizes = {name: int(axes.split()[0]) * int(axes.split()[1]) for name, axes in SERIES.items()}
        self.encoders = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Flatten(), nn.Linear(size, width, bias=False), nn.ReLU(),
                                    nn.Linear(width, width, bias=False))
                for name, size in sizes.items()
            }
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(width * len(sizes), width), nn.ReLU(), nn.Linear(width, CLASSES))

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.head(torch.cat([self.norm(self.encoders[name](inputs[name])) for name in SERIES], 1))


def mult() -> nn.Module:
    options = {"num_outputs": CLASSES, "width": 16, "num_heads": 4, "num_layers": 1}
    return zoo.build("mult", text=60, audio=3, vision=3, **options)


NETWORKS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "F.normalize": (Normalised, {}),
    "RMSNorm, epsilon 1e-8": (partial(Normalised, rms), {}),
    "LayerNorm": (partial(Normalised, layer_norm), {}),
    "x / sqrt(|x|² + 1e-10)": (partial(Normalised, partial(guarded, 1e-5)), {}),
    "x / sqrt(|x|² + 1e-14)": (partial(Normalised, partial(guarded, 1e-7)), {}),
    "MulT": (mult, {"call": "positional", "layers": [ss.AttentionClass(PackedAttention)]}),
}


class Series:
    """Give three series of a clip, 25 instants of each, and its action."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Any]:
        inputs, target = self.samples[index]
        return {name: inputs[name][:: EVERY[name]] for name in SERIES}, target


def run(name: str, seed: int, train: Any, held_out: Any, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    make, adapting = NETWORKS[name]
    train, held_out = DataLoader(train, batch_size=32, shuffle=True), DataLoader(held_out, batch_size=256)
    torch.manual_seed(seed)
    network = make()
    baselines.pretrain(network, SERIES, train, loss=F.cross_entropy, epochs=options.epochs, lr=2e-3, seed=seed,
                       progress=False, **{k: v for k, v in adapting.items() if k == "call"})  # fmt: skip
    found = {}
    for way, (threshold, clip) in WAYS.items():
        gradients.STEEP = threshold
        robust = ss.adapt(copy.deepcopy(network), SERIES, sharing="additive", **adapting)
        report = ss.train(robust, train, loss=F.cross_entropy, epochs=options.epochs, lr=options.lr, safe=False,
                          clip=clip, seed=seed, progress=False)  # fmt: skip
        columns = ["pretrained", "adapted"] if way == "nothing" else ["adapted"]
        results = ss.evaluate(robust, held_out, metric="accuracy", columns=columns, progress=False)
        mean = results.mean([str(one) for one in robust.combinations])
        ratio = max((norm / one.limit for one in report.steep.values() for norm in one.norms.values()), default=0.0)
        found[way] = (100 * mean.adapted, ratio)
        if way == "nothing":
            found["(pretrained)"] = (100 * mean.pretrained, 0.0)
        print(name, seed, way, found[way], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30, help="of training with everything, and of adapting")
    parser.add_argument("--lr", type=float, default=1e-2, help="of adapting")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="the first gradients explode")
    samples = data.load("utd-mhad", root=options.root).train
    subjects = sorted(set(samples.groups))
    print(f"torch {torch.__version__}, one thread, seeds {options.seeds}, {options.epochs} epochs, lr {options.lr}\n")
    print("| network | clipped | accuracy over incomplete combinations | spread over seeds | gradient / loss |")
    print("|---|---|---|---|---|")
    for name in options.only:
        rows: dict[str, list[tuple[float, float]]] = {}
        for seed in options.seeds:
            own = subjects[seed % len(subjects)]
            parts = [
                Series(Subset(samples, [index for index, one in enumerate(samples.groups) if (one == own) == held]))
                for held in (False, True)
            ]
            for way, measured in run(name, seed, *parts, options).items():
                rows.setdefault(way, []).append(measured)
        for way, measured in rows.items():
            accuracies, ratios = zip(*measured, strict=True)
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            steep = f"{max(ratios):.0e}" if max(ratios) else ""
            print(f"| {name} | {way} | {statistics.mean(accuracies):.1f} % | ± {spread:.1f} | {steep} |", flush=True)


if __name__ == "__main__":
    main()
