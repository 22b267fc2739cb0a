"""Compare adapter sets solved in closed form with trained ones, and with fine-tuning, by a recipe's network and data.

    python benchmarks/calibration.py utd-mhad --root FOLDER_OF_DATA_SETS --held-out     # where settings are chosen
    python benchmarks/calibration.py utd-mhad --root FOLDER_OF_DATA_SETS                # the result

For each seed a network is trained with everything present, as the recipe says; then sets are calibrated in each way
without a label, the recipe's own adapters are trained with labels, and a copy of the whole network is fine-tuned with
modality dropout: one after the other, in one process and with one thread. Prints a Markdown table: mean of the
metric over the incomplete combinations (mean and spread over seeds), and the median over seeds of each way's
processor time, and of its ratio to training.

With --held-out the test part has no part in anything: each subject of the training part is held out in turn, or where
the data name no subjects every fifth sample, the networks train on the others, and the spread is over what was held
out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

import subsense as ss
from subsense.data import Data
from subsense.recipes import run
from subsense.recipes.experiments.common import with_adapt
from subsense.recipes.run.columns import Bench
from subsense.recipes.run.train import fit_settings
from subsense.recipes.schema import Method

RANKS = (4, 8)
MOST_SUBJECTS = 20
TRAINED = "trained with labels, as the recipe says"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", action="store_true", help="measure on held-out samples of the training part")
    parser.add_argument("--only", nargs="+", default=None, help="names of rows of the table")
    parser.add_argument("--ridge", type=float, default=None)
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in options.seeds:
        for name, job in jobs(options, seed):
            for way, value, seconds in measure(job, options):
                rows.setdefault(way, []).append((value, seconds))
                print(f"seed {seed} {name} {way:60} {value:8.4f} {seconds:7.1f} s", file=sys.stderr, flush=True)
    what = "held-out samples of the training part" if options.held_out else "the test part"
    print(f"{options.recipe}, seeds {options.seeds}, measured on {what}")
    print(f"torch {torch.__version__}, one thread, {platform.processor() or platform.machine()}\n")
    report(rows)


def report(rows: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table."""
    print("| adapter sets | mean over incomplete combinations, % | spread | s of processor time | time / trained |")
    print("|---|---|---|---|---|")
    trained = rows.get(TRAINED, [])
    for name, runs in rows.items():
        values = [100 * value for value, _ in runs]
        spread = f"± {statistics.stdev(values):.1f}" if len(runs) > 1 else ""
        ratios = [seconds / slow for (_, seconds), (_, slow) in zip(runs, trained, strict=False) if seconds]
        seconds = f"{statistics.median(one for _, one in runs):.1f}"
        ratio = f"{statistics.median(ratios):.3f}" if ratios else ""
        print(f"| {name} | {statistics.mean(values):.1f} | {spread} | {seconds} | {ratio} |")


def jobs(options: argparse.Namespace, seed: int) -> Iterator[tuple[str, run.Job]]:
    """Give the recipe with a seed, once for each part that is held out."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"seed={seed}", "threads=1"]
        job = run.open_job(options.recipe, options.root, Path(folder) / "whole", changes)
        if not options.held_out:
            yield "", job
            return
        for name, data in held_out(job.data):
            part = replace(job, folder=Path(folder) / name)
            part.__dict__["data"] = data
            yield name, part


def held_out(data: Data) -> Iterator[tuple[str, Data]]:
    """Hold out each subject in turn, or every fifth sample where there are no subjects."""
    groups, count = getattr(data.train, "groups", None), len(data.train)
    if groups and len(set(groups)) > MOST_SUBJECTS:
        groups = None  # each sample is a group of its own
    names = [str(number % 5) for number in range(count)] if not groups else [str(group) for group in groups]
    for name in sorted(set(names)) if groups else ["0"]:
        own = [index for index, group in enumerate(names) if group == name]
        others = [index for index, group in enumerate(names) if group != name]
        yield name, replace(data, train=Subset(data.train, others), test=Subset(data.train, own))


def measure(job: run.Job, options: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Make adapter sets in each way: its name, the mean over incomplete combinations, seconds of processor time."""
    run.pretrain(job)
    network, bench = run.pretrained(job), Bench(job)
    for name, way in ways(job, options).items():
        if options.only is None or name in options.only:
            robust, combinations, column = adapted(job, deepcopy(network), way), way.measured, way.column
            tuned, seconds = spend(way, robust)
            results = ss.evaluate(robust, job.test_batches(), metric=bench.metric, columns=[column][: tuned is None],
                                  finetuned=tuned, progress=False,
                                  combinations=combinations or robust.combinations)  # fmt: skip
            names = combinations or [str(one) for one in robust.combinations]
            value = getattr(results.mean(names), column if tuned is None else "fine_tuned")
            yield name, value, seconds


@dataclass(frozen=True)
class Way:
    """Say how sets are made: what is done to a model, its method and sharing, and what is measured."""

    do: Callable[[ss.RobustModel], nn.Module | None]
    method: tuple[Method, ...] | None = None
    sharing: str | None = None
    measured: tuple[str, ...] = ()
    column: Any = "adapted"


def ways(job: run.Job, options: argparse.Namespace) -> dict[str, Way]:
    """Name the ways."""
    recipe, loader = job.recipe, DataLoader(job.data.train, job.recipe.evaluate.batch_size)
    incomplete = [str(one) for one in ss.Modalities(job.modalities).incomplete()]
    seen, unseen = tuple(incomplete[::2]), tuple(incomplete[1::2])
    given: dict[str, Any] = {"progress": False} | ({} if options.ridge is None else {"ridge": options.ridge})

    def calibrate(**more: Any) -> Callable[[ss.RobustModel], None]:
        return lambda robust: void(ss.calibrate(robust, loader, **given, **more))

    def train(robust: ss.RobustModel) -> None:
        ss.train(robust, strategy=recipe.train.strategy, **fit_settings(job, recipe.train))

    def tune(robust: ss.RobustModel) -> nn.Module:
        return ss.finetune(robust, **fit_settings(job, recipe.evaluate.finetuned or recipe.pretrain))

    shift, ssf = (Method(name="shift"),), (Method(name="ssf"),)
    low = {rank: (*ssf, Method(name="lora", options={"rank": rank})) for rank in RANKS}
    own, every, four = "independent", {"held_out": 0.0}, low[4]
    found = {
        "frozen": Way(void, column="pretrained"),
        "calibrated: shift": Way(calibrate(**every), shift, own),
        "calibrated: scale + shift": Way(calibrate(**every), ssf, own),
        **{f"calibrated: scale + shift, rank {rank}": Way(calibrate(**every), low[rank], own) for rank in RANKS},
        "calibrated: scale + shift, rank 4, a fifth of the rows held out": Way(calibrate(), four, own),
        "calibrated: additive, scale + shift": Way(calibrate(**every), ssf, "additive"),
        "calibrated: additive, scale + shift, rank 4": Way(calibrate(**every), four, "additive"),
    }
    if len(ss.Modalities(job.modalities)) > 2:
        some = calibrate(**every, combinations=seen)
        found |= {
            "frozen, on every second combination": Way(void, measured=unseen, column="pretrained"),
            "calibrated: additive, rank 4, on every second combination": Way(
                calibrate(**every), four, "additive", unseen
            ),
            "calibrated: additive, rank 4, on every second combination, fitted on the others": Way(
                some, four, "additive", unseen
            ),
        }
    return found | {TRAINED: Way(train), "fine-tuned with modality dropout": Way(tune)}


def adapted(job: run.Job, network: nn.Module, way: Way) -> ss.RobustModel:
    """Adapt a network as the recipe says, but for what the way has of its own."""
    changes = {"method": way.method, "sharing": way.sharing}
    recipe = with_adapt(job.recipe, **{name: value for name, value in changes.items() if value is not None})
    return run.adapt_network(job.variant(recipe), network)


def spend(way: Way, robust: ss.RobustModel) -> tuple[nn.Module | None, float]:
    """Make the sets, and say how long it took the processor."""
    start = time.process_time()
    made = way.do(robust)
    return made, time.process_time() - start


def void(_: object) -> None:
    """Give nothing."""


if __name__ == "__main__":
    main()
