"""Break a sensor that goes on being passed as present, and see who notices: the table of docs/degraded-input.md.

    python benchmarks/broken_sensor.py --root FOLDER_OF_DATA_SETS --output runs

UTD-MHAD by skeleton, accelerometer and gyroscope; the gyroscope breaks, in every test clip alike. For each seed the
recipe's adapter sets are made, and sets trained over severities, as `subsense experiment corruption utd-mhad` does
(whose folders, ``runs/utd-mhad-SEED``, are used again), and a monitor for each, which learns from the training part.

Then streams, at 1 % false alarms: how many rows pass from the fault to the first alarm, and how often a healthy row is
doubted: clips of one length (a row is a clip) and single readings (a row is one reading of accelerometer and
gyroscope, held-out clips one after the other).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

import subsense as ss
from subsense.recipes import run
from subsense.recipes.experiments.corruption import TRAINED_ON, _prepare
from subsense.recipes.run.columns import Bench

SENSOR, KEPT = "gyroscope", "skeleton+accelerometer+gyroscope"
CHANGES = ("evaluate.batch_size=430", "evaluate.combinations=[skeleton+accelerometer+gyroscope+depth]")


def noise(deviations: float) -> Callable[[Tensor], Tensor]:
    """Add noise of so many standard deviations; the data are standardised."""
    return lambda x: x + deviations * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


FAULTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda x: torch.full_like(x, float("nan")),
    "stuck": lambda x: x[:, :1].expand_as(x).clone(),
    "zeros": torch.zeros_like,
    "noise of one deviation": noise(1),
    "noise of three deviations": noise(3),
    "times 1e6": lambda x: x * 1e6,
}
GROSS = ("NaN", "stuck", "zeros", "times 1e6")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    streams: list[str] = []
    for seed in options.seeds:
        folder = options.output / f"utd-mhad-{seed}"
        job = run.open_job("utd-mhad", options.root, folder, [f"seed={seed}", *CHANGES])
        run.ensure_network(job)
        work = _prepare(Bench(job), TRAINED_ON)
        [(inputs, target)] = list(job.test_batches())
        for fault, values in accuracies(work.plain, work.faded, inputs, target).items():
            rows.setdefault(fault, []).append(values)
        streams += [f"seed {seed}, {line}" for line in by_clip(work.plain, inputs)]
    streams += by_reading(job)
    report(rows)
    print("\n".join(streams))


def accuracies(
    plain: ss.RobustModel, faded: ss.RobustModel, inputs: Mapping[str, Tensor], target: Tensor
) -> dict[str, dict[str, float]]:
    """Give the accuracy in % for each fault and way."""
    modalities = plain.modalities
    whole, rest = (modalities.present(one).expand(len(target), -1) for one in (KEPT, "skeleton+accelerometer"))
    plain.check_inputs = False  # as it was: NaN passes

    def right(model: ss.RobustModel, batch: Mapping[str, Tensor], present: Tensor | str, said: Tensor) -> float:
        with torch.no_grad():
            found = model.eval()({**batch, "present": said}, present=said if present == "kept" else present)
        return 100 * float((found.argmax(1) == target).float().mean())

    given = {name: inputs[name] for name in modalities}
    table = {}
    for fault, change in {"healthy": lambda x: x, **FAULTS}.items():
        broken = {**given, SENSOR: change(given[SENSOR])}
        table[fault] = {
            "passed as present": right(plain, broken, "kept", whole),
            "declared missing": right(plain, broken, "kept", rest),
            "auto": right(plain, broken, "auto", whole),
            "auto, trained over severities": right(faded, broken, "auto", whole),
        }
    plain.check_inputs = True
    return table


def report(rows: Mapping[str, list[dict[str, float]]]) -> None:
    """Print the table: mean over seeds and spread."""
    ways = list(next(iter(rows.values()))[0])
    print(f"| gyroscope | {' | '.join(ways)} | auto - better end |\n|---|{'---:|' * (len(ways) + 1)}")
    for fault, seeds in rows.items():
        means = {way: statistics.mean(one[way] for one in seeds) for way in ways}
        spreads = [f" ± {statistics.stdev(one[way] for one in seeds):.1f}" if len(seeds) > 1 else "" for way in ways]
        ends = max(means["passed as present"], means["declared missing"])
        cells = [f"{means[way]:.1f}{spread}" for way, spread in zip(ways, spreads, strict=True)]
        print(f"| {fault} | {' | '.join(cells)} | {means['auto'] - ends:+.1f} |")


def by_clip(robust: ss.RobustModel, inputs: Mapping[str, Tensor]) -> list[str]:
    """Say how soon gross faults are found where a row is a clip, and how often healthy rows are doubted."""
    assert robust.monitor is not None
    values = {name: inputs[name] for name in robust.modalities}
    delays = []
    for fault in GROSS:
        for start in range(50):
            part = {name: one[start : start + 10].clone() for name, one in values.items()}
            part[SENSOR] = FAULTS[fault](part[SENSOR])
            delays.append(_delay(robust.monitor.stream()(part).doubted[:, list(robust.modalities).index(SENSOR)]))
    healthy = robust.monitor.stream()(values).doubted
    alarms = {name: int(healthy[:, column].sum()) for column, name in enumerate(robust.modalities)}
    return [
        f"clips: {len(delays)} gross faults found within {max(delays)} rows; other people's healthy clips doubted: "
        + ", ".join(f"{name} {_rate(count, len(healthy))}" for name, count in alarms.items())
    ]


class Readings(nn.Module):
    """(batch, 3), (batch, 3) -> (batch, 2): something that takes single readings."""

    def __init__(self) -> None:
        super().__init__()
        self.accelerometer, self.gyroscope = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, accelerometer: Tensor, gyroscope: Tensor) -> Tensor:
        return self.accelerometer(accelerometer) + self.gyroscope(gyroscope)


def by_reading(job: run.Job) -> list[str]:
    """Say the same where a row is one reading: training clips teach, others of the same people are the stream."""
    names = ("accelerometer", "gyroscope")
    clips = {name: torch.stack([job.data.train[row][0][name] for row in range(len(job.data.train))]) for name in names}
    order = torch.randperm(len(clips["gyroscope"]), generator=torch.Generator().manual_seed(0))
    learnt, held_out = order[:200], order[200:]
    robust = ss.adapt(Readings(), dict.fromkeys(names, "3"), sharing="additive")
    robust.mark_trained(robust.combinations)
    loader = [{name: one[learnt].flatten(0, 1) for name, one in clips.items()}]
    monitor = ss.Monitor(robust, loader, rows=20_000)
    readings = {name: one[held_out].flatten(0, 1) for name, one in clips.items()}
    gross = {
        "NaN": lambda x: x * float("nan"),
        "stuck": lambda x: x[:1].expand_as(x).clone(),
        "zeros": torch.zeros_like,
        "times 1e6": lambda x: x * 1e6,
    }
    lines = []
    for fault, change in gross.items():
        delays = []
        for start in range(0, 20_000, 100):
            part = {name: one[start : start + 20].clone() for name, one in readings.items()}
            part["gyroscope"][5:] = change(part["gyroscope"][5:])
            doubted = monitor.stream()(part).doubted[5:, 1]
            delays.append(_delay(doubted))
        lines.append(f"readings: {fault}: found after {statistics.median(delays):.0f} rows, {max(delays)} at most")
    healthy = monitor.stream()({name: one[:20_000] for name, one in readings.items()}).doubted
    rates = ", ".join(
        f"{name} {_rate(int(healthy[:, column].sum()), len(healthy))}" for column, name in enumerate(names)
    )
    return [*lines, f"readings: healthy rows doubted: {rates}"]


def _delay(doubted: Tensor) -> int:
    """Count the rows up to the first alarm."""
    return int(doubted.int().argmax()) + 1 if bool(doubted.any()) else 1000


def _rate(count: int, rows: int) -> str:
    low, high = binomtest(count, rows).proportion_ci(0.95, "wilson")
    return f"{100 * count / rows:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
