"""Compare ways to train the adapter sets of four real sensors: UTD-MHAD, cross-subject, 14 incomplete combinations.

    python benchmarks/utd_mhad_sharing.py --root FOLDER_OF_DATA_SETS --held-out     # where settings are chosen
    python benchmarks/utd_mhad_sharing.py --root FOLDER_OF_DATA_SETS                # the result

For each seed a network is trained with everything present, then adapted in each way, one after the other in one
process and with one thread. Prints a Markdown table: mean accuracy over the incomplete combinations (mean and spread
over seeds), and the median over seeds of each way's processor time as a ratio to separate training's.

With --held-out the test subjects have no part in anything: each of the four training subjects in turn is held
out, the networks train on the other three, and the spread is over held-out subjects.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

import subsense as ss
from subsense import data, zoo
from subsense.training import baselines

PRETRAIN_EPOCHS = 40
SEPARATE_EPOCHS = 32
JOINT_EPOCHS = 128
UNSEEN = ("skeleton", "gyroscope", "skeleton+accelerometer", "gyroscope+depth", "skeleton+gyroscope+depth",
          "accelerometer+depth", "accelerometer+gyroscope")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", action="store_true", help="measure on training subjects held out in turn")
    parser.add_argument("--only", nargs="+", default=None, help="names of rows of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, float]]] = {}
    loaded = data.load("utd-mhad", root=options.root)
    for seed in options.seeds:
        for subject, train, test in held_out(loaded.train) if options.held_out else [("", loaded.train, loaded.test)]:
            for name, accuracy, seconds in run(loaded.modalities, train, test, seed, options.only):
                rows.setdefault(name, []).append((accuracy, seconds))
                print(f"seed {seed} {subject} {name:60} {accuracy:6.2%} {seconds:6.1f} s", file=sys.stderr, flush=True)
    print(f"seeds {options.seeds}, {'held-out training subjects' if options.held_out else 'test subjects'}")
    print(f"torch {torch.__version__}, one thread, {platform.processor() or platform.machine()}\n")
    report(rows)


def report(rows: dict[str, list[tuple[float, float]]]) -> None:
    reference = rows.get("separate, independent", [])
    print("| training | accuracy over incomplete combinations | spread over seeds | time / separate |")
    print("|---|---|---|---|")
    for name, runs in rows.items():
        accuracies = [100 * accuracy for accuracy, _ in runs]
        spread = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
        ratios = [seconds / slow for (_, seconds), (_, slow) in zip(runs, reference, strict=False) if seconds > 1]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        print(f"| {name} | {statistics.mean(accuracies):.1f} % | ± {spread:.1f} | {ratio} |")


def held_out(samples: data.Samples) -> Iterator[tuple[str, Dataset, Dataset]]:
    """Hold out each subject in turn: its name, the samples of the others, its own."""
    for subject in sorted(set(samples.groups)):
        own = [index for index, group in enumerate(samples.groups) if group == subject]
        others = [index for index, group in enumerate(samples.groups) if group != subject]
        yield subject, Subset(samples, others), Subset(samples, own)


def run(modalities, train, test, seed, only):
    train = DataLoader(train, batch_size=32, shuffle=True)
    test = DataLoader(test, batch_size=256)
    torch.manual_seed(seed)
    network = zoo.build("utd-mhad-transformer")
    baselines.pretrain(network, modalities, train, loss=nn.CrossEntropyLoss(label_smoothing=0.1),
                       epochs=PRETRAIN_EPOCHS, lr=2e-3, weight_decay=0.01, seed=seed, progress=False)  # fmt: skip

    def adapted(sharing="additive", method="ssf", combinations=None, measured=None, untrained="error", **options):
        robust = ss.adapt(copy.deepcopy(network), modalities, method=method, sharing=sharing, untrained=untrained)
        start = time.process_time()
        if options:
            ss.train(robust, train, combinations=combinations, seed=seed, progress=False, **options)
        seconds = time.process_time() - start
        column = "adapted" if options else "pretrained"
        results = ss.evaluate(robust, test, metric="accuracy", columns=[column], progress=False,
                              combinations=measured or robust.combinations)  # fmt: skip
        return getattr(results.mean(measured or [str(one) for one in robust.combinations]), column), seconds

    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    joint = {"loss": smoothed, "dropout": True, "epochs": JOINT_EPOCHS, "lr": 5e-3}
    separate = {"loss": smoothed, "dropout": True, "epochs": SEPARATE_EPOCHS, "lr": 1e-2}
    separate |= {"strategy": "separate", "sharing": "independent"}
    distilled = {"epochs": JOINT_EPOCHS, "lr": 1e-2}
    seen = [one for one in ss.Modalities(modalities).incomplete() if str(one) not in UNSEEN]
    ways = {
        "zero-filled pretrained": {},
        "separate, independent": separate,
        "joint, additive": joint,
        "separate, independent, dropout off": separate | {"dropout": False},
        "joint, additive, dropout off": joint | {"dropout": False},
        "joint, independent": joint | {"sharing": "independent"},
        "joint, additive, labels and the network's own targets": distilled
        | {"loss": ss.Distill(task=smoothed, task_weight=0.5)},
        "joint, additive, distilled without labels": distilled | {"loss": "distill"},
        "joint, additive, SSF + LoRA rank 4": joint | {"method": ["ssf", ss.LoRA(4)]},
        "zero-filled pretrained, on 7 combinations": {"measured": UNSEEN},
        "joint, additive, trained on the other 7, on 7 combinations": joint
        | {"combinations": seen, "measured": UNSEEN},
    }
    for name, options in ways.items():
        if only is None or name in only:
            yield name, *adapted(**options)


if __name__ == "__main__":
    main()
