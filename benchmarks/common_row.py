"""Compare adapter sets with and without a row that all incomplete combinations share, and fine-tuning, by a recipe.

    python benchmarks/common_row.py utd-mhad --root FOLDER_OF_DATA_SETS --held-out     # where settings are chosen
    python benchmarks/common_row.py utd-mhad --root FOLDER_OF_DATA_SETS                # the result

For each seed a network is trained with everything present, as the recipe says; then adapter sets are trained with the
recipe's loss, schedule and batches, additive rows of each method with a common row of LoRA or without, and a copy of
the whole network is fine-tuned with modality dropout. Prints a Markdown table: mean of the metric over the incomplete
combinations (mean and spread over seeds), all parameters trained as a share of the network's, and processor time.

With --held-out the test part has no part in anything; see benchmarks/calibration.py.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch

import subsense as ss
from calibration import Way, adapted, jobs, void
from subsense.recipes import run
from subsense.recipes.run.columns import Bench
from subsense.recipes.run.train import fit_settings
from subsense.recipes.schema import Method


def common(rank: int) -> Method:
    """Give a common row of LoRA, as a recipe names it."""
    return Method.model_validate({"name": "common", "options": {"adapter": {"lora": {"rank": rank}}}})


SSF, SHIFT = Method(name="ssf"), Method(name="shift")
WAYS = {
    "scale + shift": (SSF,),
    "shift": (SHIFT,),
    **{f"common rank {rank}": (common(rank),) for rank in (2, 4, 8)},
    **{f"shift, common rank {rank}": (SHIFT, common(rank)) for rank in (1, 2, 4, 8)},
    **{f"scale + shift, common rank {rank}": (SSF, common(rank)) for rank in (2, 4, 8, 16)},
}
TUNED = "whole network fine-tuned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", action="store_true", help="measure on held-out samples of the training part")
    parser.add_argument("--only", nargs="+", default=None, help="names of rows of the table")
    parser.add_argument("--epochs", type=int, default=None, help="other than the recipe's")
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in options.seeds:
        for part, job in jobs(options, seed):
            for way, value, share, seconds in measure(job, options):
                rows.setdefault(way, []).append((value, share, seconds))
                print(f"seed {seed} {part} {way:40} {value:8.4f} {share:7.2%} {seconds:7.1f} s",
                      file=sys.stderr, flush=True)  # fmt: skip
    what = "held-out samples of the training part" if options.held_out else "the test part"
    print(f"{options.recipe}, seeds {options.seeds}, measured on {what}")
    print(f"torch {torch.__version__}, one thread, {platform.processor() or platform.machine()}\n")
    report(rows)


def report(rows: dict[str, list[tuple[float, float, float]]]) -> None:
    """Print the table."""
    print("| trained | mean over incomplete combinations, % | each | all parameters / network | s of processor time |")
    print("|---|---|---|---|---|")
    for name, runs in rows.items():
        values = [100 * value for value, _, _ in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(runs) > 1 else ""
        each = " ".join(f"{value:.1f}" for value in values)
        seconds = statistics.median(one for _, _, one in runs)
        print(f"| {name} | {statistics.mean(values):.1f}{spread} | {each} | {runs[0][1]:.1%} | {seconds:.0f} |")


def measure(job: run.Job, options: argparse.Namespace) -> Iterator[tuple[str, float, float, float]]:
    """Train in each way: its name, mean over incomplete combinations, share of parameters, processor time."""
    run.pretrain(job)
    network, bench, fit = run.pretrained(job), Bench(job), job.recipe.train
    settings = fit_settings(job, fit.model_copy(update={"epochs": options.epochs or fit.epochs}))
    for name, methods in {**WAYS, TUNED: (SSF,)}.items():
        if options.only is not None and name not in options.only:
            continue
        robust = adapted(job, deepcopy(network), Way(void, methods, "additive"))
        start, tuned = time.process_time(), None
        if name == TUNED:
            tuned = ss.finetune(robust, **fit_settings(job, job.recipe.evaluate.finetuned or job.recipe.pretrain))
        else:
            ss.train(robust, **settings)
        seconds = time.process_time() - start
        results = ss.evaluate(robust, job.test_batches(), metric=bench.metric, columns=["adapted"][: tuned is None],
                              finetuned=tuned, progress=False)  # fmt: skip
        mean = results.mean([str(one) for one in robust.combinations])
        share = robust.plan.num_parameters / robust.plan.network_parameters if tuned is None else 1.0
        yield name, mean.adapted if tuned is None else mean.fine_tuned, share, seconds


if __name__ == "__main__":
    main()
