"""Measure what `subsense.fold(robust, combination, drop_absent=True)` saves: one modality of several is present.

    OMP_NUM_THREADS=1 python benchmarks/absent_branch.py --output absent.json

For each network the frozen network on filled inputs (as its user would run it), the folded network (on the same), and
the network without what is absent (on what is present) run in turns, another one first in each round, in one thread. A
figure is the median over rounds of the ratio of processor time in one round. Floating-point operations are those of
`torch.utils.flop_counter`, which counts matrix products, convolutions and attention. Weights are drawn, adapter sets
too. Prints a Markdown table; `--output` also writes JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import subsense as ss
from subsense import zoo

SLACK = 0.1


class LateFusion(nn.Module):
    """Classify by equal encoders, one for each modality, whose features are joined."""

    def __init__(self, num_modalities: int, encoder: Callable[[], nn.Module], width: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoder() for _ in range(num_modalities))
        self.head = nn.Sequential(nn.Linear(width * num_modalities, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, inputs: list[Tensor]) -> Tensor:
        features = [encoder(one) for encoder, one in zip(self.encoders, inputs, strict=True)]
        return self.head(torch.cat(features, 1))


class TokenEncoder(nn.Module):
    """Encode (batch, 64, 32) by four transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(32, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(self.embedding(tokens)).mean(1)


class TwoSegFormers(nn.Module):
    """Segment by two SegFormer-B0 encoders of transformers, which meet after their last stage."""

    def __init__(self) -> None:
        from transformers import SegformerConfig, SegformerModel

        super().__init__()
        self.encoders = nn.ModuleList(SegformerModel(SegformerConfig(num_channels=count)) for count in (3, 1))
        self.head = nn.Conv2d(512, 9, 1)

    def forward(self, images: list[Tensor]) -> Tensor:
        maps = [encoder(image).last_hidden_state for encoder, image in zip(self.encoders, images, strict=True)]
        return self.head(torch.cat(maps, 1))


def convolutional_encoder() -> nn.Module:
    widths = (3, 16, 32, 64, 128)
    stages = [
        nn.Sequential(nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        for before, width in pairwise(widths)
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@dataclass(frozen=True)
class Case:
    """Hold a network, what `adapt` needs for it, what is present, and what is measured."""

    make: Callable[[], nn.Module]
    modalities: Mapping[str, str]
    present: str
    call: Any = "kwargs"
    sizes: Mapping[str, int] = field(default_factory=dict)
    rows: tuple[int, ...] = (1, 8)
    layers: Callable[[], list[ss.LayerClass]] = list
    target: float | None = None


@dataclass(frozen=True)
class Row:
    """Hold what was measured of a network at one batch size; ratios are to the frozen network on filled inputs."""

    network: str
    present: str
    rows: int
    operations: float
    parameters: float
    time: float
    time_of_folded: float
    target: float | None
    difference: float
    seconds_to_fold: float
    frozen_milliseconds: float


def late(num_modalities: int, encoder: Callable[[], nn.Module], axes: str) -> Case:
    names = {f"m{index}": axes for index in range(num_modalities)}
    make = partial(LateFusion, num_modalities, encoder, 128)
    return Case(make, names, "m0", "list", target=1 / num_modalities + SLACK)


def layer_norms() -> list[ss.LayerClass]:
    from subsense.zoo.cmnext import ConvLayerNorm

    return [ss.LayerClass(ConvLayerNorm, kind="norm", axis=1)]


def cmnext(*names: str) -> Case:
    spec = dict.fromkeys(names, "3 H W")
    make = partial(zoo.build, "cmnext", modalities=list(names), num_classes=9)
    return Case(make, spec, "rgb", sizes={"H": 128, "W": 128}, rows=(2,), layers=layer_norms)


DIGITS = dict.fromkeys(("nw", "ne", "sw", "se"), "1 4 4")
ACTIONS = {"skeleton": "50 60", "accelerometer": "100 3", "gyroscope": "100 3", "depth": "3 60 80"}
SPEECH = {"text": "50 300", "audio": "50 5", "vision": "50 20"}
CASES: dict[str, Case] = {
    **{f"late fusion, {count} convolutional": late(count, convolutional_encoder, "3 128 128") for count in (2, 4, 8)},
    **{f"late fusion, {count} transformers": late(count, TokenEncoder, "64 32") for count in (2, 4, 8)},
    "two SegFormer-B0 encoders": Case(TwoSegFormers, {"rgb": "3 128 128", "thermal": "1 128 128"}, "rgb", "list"),
    "cmnext B2, 2 modalities": cmnext("rgb", "thermal"),
    "cmnext B2, 4 modalities": cmnext("rgb", "depth", "event", "lidar"),
    "mult": Case(lambda: zoo.build("mult"), SPEECH, "text", "positional"),
    "cwfid-unet": Case(lambda: zoo.build("cwfid-unet"), {"red": "1 128 128", "nir": "1 128 128"}, "nir"),
    "utd-mhad-transformer": Case(lambda: zoo.build("utd-mhad-transformer"), ACTIONS, "skeleton"),
    "digits-transformer": Case(lambda: zoo.build("digits-transformer"), DIGITS, "nw"),
}


def measure(name: str, case: Case, rounds: int) -> list[Row]:
    torch.manual_seed(0)
    network = case.make().eval()
    frozen = copy.deepcopy(network).requires_grad_(False)
    robust = ss.adapt(network, case.modalities, call=case.call, layers=case.layers())
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter += 0.1 * torch.randn_like(parameter)
    robust.mark_trained(robust.combinations)
    robust.eval()
    start = time.perf_counter()
    example = draw(case, max(case.rows))
    folded = ss.fold(robust, case.present)
    dropped = ss.fold(robust, case.present, example=example, drop_absent=True)
    seconds = time.perf_counter() - start
    parameters = count(dropped) / count(frozen)
    rows = []
    for num_rows in case.rows:
        inputs = draw(case, num_rows)
        filled, present = ss.prepare(robust, inputs), ss.prepare(robust, inputs, drop_absent=True)
        runs = {"frozen": (frozen, filled), "folded": (folded, filled), "dropped": (dropped, present)}
        with torch.no_grad():
            expected, found = (
                scores(run(*args, **kwargs)) for run, (args, kwargs) in (runs["folded"], runs["dropped"])
            )
            times = in_turns(runs, rounds)
            flops = [operations(*runs[which]) for which in ("dropped", "frozen")]
        rows.append(
            Row(
                name,
                case.present,
                num_rows,
                operations=flops[0] / flops[1],
                parameters=parameters,
                time=ratio(times, "dropped"),
                time_of_folded=ratio(times, "folded"),
                target=case.target,
                difference=float((found - expected).abs().max() / expected.abs().max()),
                seconds_to_fold=seconds,
                frozen_milliseconds=1e3 * statistics.median(times["frozen"]),
            )
        )
    return rows


def draw(case: Case, num_rows: int) -> dict[str, Tensor]:
    return {
        name: torch.randn(num_rows, *(case.sizes.get(size) or int(size) for size in case.modalities[name].split()))
        for name in case.present.split("+")
    }


def scores(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def count(module: nn.Module) -> int:
    """Count the numbers that a module holds: weights, and constants in their stead."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def operations(module: nn.Module, arguments: tuple[Any, Any]) -> int:
    """Count floating-point operations, in the plain path: torch's fused transformer layers are not counted."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            module(*arguments[0], **arguments[1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


def in_turns(runs: Mapping[str, tuple[nn.Module, tuple[Any, Any]]], rounds: int) -> dict[str, list[float]]:
    """Time each, beginning with another one in each round: what runs before leaves its mark on the allocator."""
    times: dict[str, list[float]] = {which: [] for which in runs}
    names = list(runs)
    for turn in range(rounds + 3):
        names = [*names[1:], names[0]]
        for which in names:
            module, (args, kwargs) = runs[which]
            start = time.process_time()
            module(*args, **kwargs)
            if turn >= 3:
                times[which].append(time.process_time() - start)
    return times


def ratio(times: Mapping[str, list[float]], which: str) -> float:
    return statistics.median(one / frozen for one, frozen in zip(times[which], times["frozen"], strict=True))


def table(rows: list[Row]) -> str:
    lines = [
        "| network | present | rows | operations | numbers held | time | to reach | folded alone | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        target = "" if row.target is None else f"<= {row.target:.3f}"
        lines.append(
            f"| {row.network} | {row.present} | {row.rows} | {row.operations:.3f} | {row.parameters:.3f} "
            f"| {row.time:.3f} | {target} | {row.time_of_folded:.3f} | {row.difference:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    rows: list[Row] = []
    for name in options.only:
        rows += measure(name, CASES[name], options.rounds)
        print(rows[-1], file=sys.stderr, flush=True)
    about = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": 1,
        "rounds": options.rounds,
        "seed": 0,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
    print(table(rows))
    if options.output:
        options.output.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
