"""Measure what all combinations of eight modalities cost: trained beside one of them alone, and evaluated.

    OMP_NUM_THREADS=1 python benchmarks/many_combinations.py --seeds 0 1 2

scikit-learn's digits, each column of pixels a modality of its own: 255 combinations. A network is trained on all eight
columns; then additive sets of SSF for all combinations at once, and, for some combinations of four columns, a set of
that combination alone. Processor time, and accuracy on test rows of those very combinations. Then one evaluation of
all combinations of four cameras beside as many separate forwards of the same rows. Prints two Markdown tables.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import subsense as ss
from subsense import data, zoo
from subsense.training.baselines import pretrain

COLUMNS = tuple(f"c{number}" for number in range(8))
CHOSEN = ("c0+c2+c4+c6", "c0+c1+c2+c3", "c2+c3+c4+c5", "c1+c3+c6+c7")
EPOCHS = 24
MODALITIES = dict.fromkeys(COLUMNS, "8")


def encoder(width: int) -> nn.Module:
    """(batch, 8) -> (batch, width)."""
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width))


class Columns(nn.Module):
    """(batch, 8) eight times -> (batch, 10): an encoder for each column, and a head for all."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: encoder(width) for name in COLUMNS})
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(
        self, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor, c6: Tensor, c7: Tensor
    ) -> Tensor:
        """Add up what the encoders give."""
        given = dict(zip(COLUMNS, (c0, c1, c2, c3, c4, c5, c6, c7), strict=True))
        return self.head(torch.stack([self.encoders[name](x) for name, x in given.items()]).sum(0))


def columns(samples: Any) -> list[tuple[dict[str, Tensor], int]]:
    """Cut each picture of the digits into its columns."""
    found = []
    for inputs, target in samples:
        rows = [torch.cat([inputs[left], inputs[right]], 2) for left, right in (("nw", "ne"), ("sw", "se"))]
        picture = torch.cat(rows, 1)[0]
        found.append(({name: picture[:, number] for number, name in enumerate(COLUMNS)}, int(target)))
    return found


def trained(seed: int) -> list[dict[str, float]]:
    """Give time and accuracy for each chosen combination: trained alone, and with all others."""
    digits = data.load("digits", seed=seed)
    loader = DataLoader(columns(digits.train), batch_size=64, shuffle=True)
    test = DataLoader(columns(digits.test), batch_size=512)
    torch.manual_seed(seed)
    options: dict[str, Any] = {"loss": cross_entropy, "progress": False, "seed": seed}
    network = pretrain(Columns(), MODALITIES, loader, epochs=30, lr=3e-3, **options)
    every = ss.adapt(copy.deepcopy(network), MODALITIES, sharing="additive")
    took = _seconds(lambda: ss.train(every, loader, epochs=EPOCHS, **options))
    rows = []
    for combination in CHOSEN:
        one = ss.adapt(copy.deepcopy(network), MODALITIES, combinations=[combination])
        alone = _seconds(
            lambda one=one, this=combination: ss.train(one, loader, epochs=EPOCHS, combinations=[this], **options)
        )
        accuracy = {name: _accuracy(robust, test, combination) for name, robust in (("all", every), ("one", one))}
        frozen = ss.evaluate(
            one, test, metric="accuracy", combinations=[combination], columns=["pretrained"], progress=False
        )
        rows.append({"time": took / alone, **accuracy, "frozen": 100 * float(frozen.rows[0].pretrained or 0)})
    return rows


def evaluated(rounds: int) -> list[float]:
    """Give the time of one evaluation of all combinations of four cameras / that of as many forwards of the rows."""
    digits = data.load("digits")
    batches = list(DataLoader(digits.test, batch_size=450))
    robust = ss.adapt(zoo.build("digits-transformer").eval(), digits.modalities, sharing="additive")
    robust.mark_trained("all")
    asked = [*robust.combinations, robust.modalities.complete]

    def forwards() -> None:
        with torch.no_grad():
            for inputs, _ in batches:
                for one in asked:
                    robust.eval()({name: inputs[name] for name in one})

    def evaluation() -> None:
        ss.evaluate(robust, batches, metric="accuracy", columns=["adapted"], progress=False)

    forwards(), evaluation()
    return [_seconds(evaluation) / _seconds(forwards) for _ in range(rounds)]


def _accuracy(robust: ss.RobustModel, test: DataLoader[Any], combination: str) -> float:
    results = ss.evaluate(
        robust, test, metric="accuracy", combinations=[combination], columns=["adapted"], progress=False
    )
    return 100 * float(results.rows[0].adapted or 0)


def _seconds(run: Callable[[], Any]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = [trained(seed) for seed in options.seeds]
    print("| combination | frozen | trained alone | with all 254 others | time, all / alone |")
    print("|---|---|---|---|---|")
    for place, combination in enumerate(CHOSEN):
        cells = [_spread([rows[place][name] for rows in found], 1) for name in ("frozen", "one", "all")]
        print(f"| {combination} | {' | '.join(cells)} | {_spread([rows[place]['time'] for rows in found], 2)} |")
    ratios = evaluated(options.rounds)
    print("\n| evaluation of 15 combinations / 15 forwards of the rows | spread |\n|---|---|")
    print(f"| {statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |")


def _spread(values: list[float], digits: int) -> str:
    more = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {more:.{digits}f}"


if __name__ == "__main__":
    main()
