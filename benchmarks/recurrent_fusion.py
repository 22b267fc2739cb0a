"""Ask whether it helps to reach the recurrent layers of an LSTM fusion network.

    OMP_NUM_THREADS=1 python benchmarks/recurrent_fusion.py --root FOLDER_OF_DATA_SETS

An LSTM for each modality, a fourth over their states side by side, a linear head, as in bc-LSTM (Poria et al., ACL
2017): on CMU-MOSI, utterance features with those of the seven utterances before, the published split; on UTD-MHAD's
three series, 25 instants of each, cross-subject. Trained with everything present, then adapted jointly. Nothing was
chosen on any part: settings are the library's own. `LSTMs left out` is `exclude`, which leaves the head alone. Prints a
Markdown table: accuracy on the test part over the six incomplete combinations (mean and spread over seeds).
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import subsense as ss
from subsense import data
from subsense.training import baselines

BEFORE = 7
EVERY = {"skeleton": 2, "accelerometer": 4, "gyroscope": 4}
WAYS: dict[str, dict[str, Any]] = {
    "LSTMs left out": {"method": "ssf", "exclude": ["encoders.*", "fusion"]},
    "scale and shift of gates": {"method": "ssf"},
    "and rank 4": {"method": ["ssf", ss.LoRA(4)]},
}


class Recurrent(nn.Module):
    """(batch, T, features) for each modality -> (batch, classes)."""

    def __init__(self, sizes: dict[str, int], classes: int, width: int = 32) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.LSTM(size, width, batch_first=True) for name, size in sizes.items()})
        self.fusion = nn.LSTM(width * len(sizes), width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, **inputs: Tensor) -> Tensor:
        states = [encoder(inputs[name])[0] for name, encoder in self.encoders.items()]
        return self.head(self.fusion(torch.cat(states, 2))[0][:, -1])


class Windows:
    """Give each utterance with those spoken before it in its video; zeros before the first.

    The published tables are sorted by label, so that what stands before an utterance there gives its label away; what
    was spoken before is told by the numbers in the transcripts' names.
    """

    def __init__(self, samples: Any, part: str, root: Path) -> None:
        self.samples = samples
        folder = root / "cmu_mosi"
        with (folder / "transcripts.csv").open(encoding="utf-8-sig", newline="") as file:
            names = [row[0] for row in csv.reader(file)]
        with (folder / f"index_text_{part}.csv").open(encoding="utf-8-sig", newline="") as file:
            own = [names[int(row[0])].rpartition("_") for row in csv.reader(file)]
        assert [video for video, _, _ in own] == list(samples.groups)
        spoken: dict[str, list[tuple[int, int]]] = {}
        for index, (video, _, number) in enumerate(own):
            spoken.setdefault(video, []).append((int(number), index))
        self.before: dict[int, list[int]] = {}
        for places in spoken.values():
            order = [index for _, index in sorted(places)]
            self.before |= {index: order[max(0, at - BEFORE) : at + 1] for at, index in enumerate(order)}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Any]:
        rows = [self.samples[at][0] for at in self.before[index]]
        own = {name: torch.stack([row[name] for row in rows]) for name in ("text", "audio", "video")}
        return {name: F.pad(one, (0, 0, BEFORE + 1 - len(one), 0)) for name, one in own.items()}, self.samples[index][1]


class Series:
    """Give three series of a clip, 25 instants of each."""

    def __init__(self, samples: Any, part: str, root: Path) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Any]:
        inputs, target = self.samples[index]
        return {name: inputs[name][::every] for name, every in EVERY.items()}, target


SETS = {
    "cmu-mosi": (Windows, {"text": 100, "audio": 73, "video": 100}, BEFORE + 1, 2),
    "utd-mhad": (Series, {"skeleton": 60, "accelerometer": 3, "gyroscope": 3}, 25, 27),
}


def run(name: str, seed: int, loaded: Any, options: argparse.Namespace) -> dict[str, tuple[float, ...]]:
    wrap, sizes, length, classes = SETS[name]
    axes = {one: f"{length} {size}" for one, size in sizes.items()}
    train = DataLoader(wrap(loaded.train, "train", options.root), batch_size=32, shuffle=True)
    test = DataLoader(wrap(loaded.test, "test", options.root), batch_size=256)
    torch.manual_seed(seed)
    network = Recurrent(sizes, classes)
    baselines.pretrain(network, axes, train, loss=F.cross_entropy, epochs=options.epochs, seed=seed, progress=False)
    found = {}
    for way, adapting in WAYS.items():
        robust = ss.adapt(copy.deepcopy(network), axes, sharing="additive", **adapting)
        ss.train(robust, train, loss=F.cross_entropy, epochs=options.epochs, safe=False, seed=seed, progress=False)
        results = ss.evaluate(robust, test, metric="accuracy", columns=["pretrained", "adapted"], progress=False)
        mean = results.mean([str(one) for one in robust.combinations])
        whole = results.mean(["+".join(sizes)])
        found["everything there"] = (100 * whole.pretrained, 0, 0.0)
        found["not adapted"] = (100 * mean.pretrained, 0, 0.0)
        reached = 1 - sum(robust.plan.out_of_reach.values()) / robust.plan.network_parameters
        found[way] = (100 * mean.adapted, robust.plan.num_parameters, 100 * reached)
        print(name, seed, way, found[way], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20, help="of training with everything, and of adapting")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="an adapter could reach|no adapter could reach")
    print(f"torch {torch.__version__}, one thread, seeds {options.seeds}, {options.epochs} epochs\n")
    print("| data | adapted | parameters reached | adapter parameters | accuracy, six incomplete | spread |")
    print("|---|---|---|---|---|---|")
    for name in options.only:
        loaded = data.load(name, root=options.root)
        rows: dict[str, list[tuple[float, ...]]] = {}
        for seed in options.seeds:
            for way, measured in run(name, seed, loaded, options).items():
                rows.setdefault(way, []).append(measured)
        for way, measured in rows.items():
            accuracies = [one[0] for one in measured]
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            _, count, reached = measured[0]
            shown = (f"{reached:.0f} %", f"{count:,.0f}") if count else ("", "")
            mean = f"{statistics.mean(accuracies):.1f} % | ± {spread:.1f}"
            print(f"| {name} | {way} | {' | '.join(shown)} | {mean} |", flush=True)


if __name__ == "__main__":
    main()
