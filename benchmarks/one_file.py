"""Measure one file for all sets (`subsense.export`) against one folded ONNX file for each combination.

    OMP_NUM_THREADS=1 python benchmarks/one_file.py --output one-file.json

Size: one graph and its adapter files, or one ``.pt2``, as a share of all folded ONNX files together. Time: one run with
the first incomplete combination in onnxruntime, one thread, the folded file and the one graph in turns, another first
in each round; the median over rounds of the ratio of processor time. Weights and adapter sets are drawn with seed 0.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from absent_branch import LateFusion, TokenEncoder
from torch import Tensor

import subsense as ss
from subsense import RobustModel
from subsense.zoo.digits_transformer import DigitsTransformer

Case = tuple[str, Callable[[], RobustModel], Callable[[int], dict[str, Tensor]]]


@dataclass(frozen=True)
class Measured:
    """Hold one row of the table."""

    network: str
    sets: int
    rows: int
    folded_kib: float
    graph_kib: float
    adapter_kib: float
    program_kib: float
    size: float
    time: float


def cases(sharing: str) -> list[Case]:
    """Give the networks, each adapted, and what draws its inputs."""
    tokens = {f"m{number}": "64 32" for number in range(4)}
    quarters = dict.fromkeys(("nw", "ne", "sw", "se"), "1 4 4")

    def transformers() -> RobustModel:
        network = LateFusion(4, TokenEncoder, 128).eval()
        return ss.adapt(network, tokens, call="list", sharing=sharing)

    def digits() -> RobustModel:
        return ss.adapt(DigitsTransformer().eval(), quarters, call="positional", sharing=sharing)

    return [
        (
            "late fusion, 4 transformers",
            transformers,
            lambda rows: {name: torch.randn(rows, 64, 32) for name in tokens},
        ),
        ("digits-transformer", digits, lambda rows: {name: torch.rand(rows, 1, 4, 4) for name in quarters}),
    ]


def measure(case: Case, sharing: str, rounds: int) -> list[Measured]:
    """Write everything into a temporary folder, and run it in turns."""
    name, make, draw = case
    torch.manual_seed(0)
    robust = make()
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    robust.mark_trained("all")
    with tempfile.TemporaryDirectory() as folder:
        at, example = Path(folder), draw(2)
        files = ss.export(robust, at / "one.onnx", example)
        ss.export(robust, at / "one.pt2", example)
        for combination in files:
            ss.fold(robust, combination, onnx=at / f"{combination}.folded.onnx", example=draw(1))
        folded = sum(_kib(at, f"{one}.folded.onnx*") for one in files)
        graph, adapters, program = _kib(at, "one.onnx*"), _kib(at, "*.onnx_adapter"), _kib(at, "one.pt2")
        first = next(iter(files))
        ratio = _ratio(robust, at, first, files[first], draw(1), rounds)
    size = (graph + adapters) / folded
    return [Measured(f"{name}, {sharing}", len(files), 1, folded, graph, adapters, program, size, ratio)]


def _kib(folder: Path, pattern: str) -> float:
    return sum(file.stat().st_size for file in folder.glob(pattern)) / 1024


def _ratio(
    robust: RobustModel, at: Path, first: ss.Combination, adapter: Path, inputs: dict[str, Tensor], rounds: int
) -> float:
    given = {name: one if name in first else torch.zeros_like(one) for name, one in inputs.items()}
    arrays = [one.numpy() for one in given.values()]
    loaded, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    loaded.Load(str(adapter))
    options.add_active_adapter(loaded)
    sessions = {"one": (_session(at / "one.onnx"), options), "folded": (_session(at / f"{first}.folded.onnx"), None)}
    ratios = []
    for number in range(rounds):
        took = {}
        for kind in sorted(sessions, reverse=bool(number % 2)):
            session, run = sessions[kind]
            feed = dict(zip([one.name for one in session.get_inputs()], arrays, strict=True))
            began = time.process_time()
            for _ in range(20):
                session.run(None, feed, run)
            took[kind] = time.process_time() - began
        ratios.append(took["one"] / took["folded"])
    return statistics.median(ratios)


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = [
        row
        for sharing in ("independent", "additive")
        for case in cases(sharing)
        for row in measure(case, sharing, options.rounds)
    ]
    print("| network | sets | folded files, KiB | graph | adapter files | `.pt2` | size / folded | time / folded |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        sizes = f"{row.folded_kib:,.0f} | {row.graph_kib:,.0f} | {row.adapter_kib:,.0f} | {row.program_kib:,.0f}"
        print(f"| {row.network} | {row.sets} | {sizes} | {row.size:.3f} | {row.time:.3f} |")
    if options.output:
        facts = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "processor": platform.processor()}
        options.output.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
