"""Measure what adapters cost, and write JSON and a table.

    python -m benchmarks.speed --out build/speed      (make bench)

Everything is measured against the frozen network in the same run. See docs/performance.md for what each figure is.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import figures, growth
from benchmarks.speed.networks import CASES, Case, missing
from benchmarks.speed.table import markdown

TIMED: Mapping[str, Callable[[Case, str, float], Any]] = {
    "training step / floor": figures.training_step,
    "training step with AdamW / floor": figures.optimiser_step,
    "inference / frozen": figures.inference,
    "mixed batch, 15 combinations / frozen": figures.mixed_batch,
}
COUNTED: Mapping[str, Callable[[Case, str], Any]] = {
    "memory": figures.memory,
    "handling, ms": figures.handling,
    "graphs": figures.graphs,
}


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    skipped = missing()
    cases = {name: make() for name, make in CASES.items() if name not in skipped and name in options.networks}
    result = {"versions": _versions(), "machine": _machine(), "device": options.device} | _measure(options, cases)
    result["skipped"] = [f"{name} was not measured: {why}" for name, why in skipped.items()]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "speed.md").write_text(markdown(result))
    print(markdown(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/speed"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=20.0, help="for each figure of time")
    parser.add_argument("--most-modalities", type=int, default=8, help="where growth ends; 0: leave it out")
    return parser.parse_args()


def _measure(options: argparse.Namespace, cases: Mapping[str, Case]) -> dict[str, Any]:
    result: dict[str, Any] = {"threads": {}, "networks": {}}
    for name, case in cases.items():
        result["networks"][name] = {title: _say(f"{name}: {title}", figure, case, options.device)
                                    for title, figure in COUNTED.items()}  # fmt: skip
    for threads in options.threads:
        torch.set_num_threads(threads)
        timed = result["threads"][str(threads)] = {}
        for name, case in cases.items():
            chosen = dict(TIMED) | ({"few combinations, large images / frozen": figures.few_combinations}
                                    if case.sizes else {})  # fmt: skip
            timed[name] = {title: _say(f"{name}: {title}, {threads} threads", figure, case, options.device,
                                       options.seconds) for title, figure in chosen.items()}  # fmt: skip
    torch.set_num_threads(1)
    if options.most_modalities:
        seconds = options.seconds / 10
        result["growth"] = _say("growth", growth.growth, options.device, seconds, options.most_modalities)
        result["sizes"] = _say("sizes", growth.sizes, options.most_modalities)
    return result


def _say(title: str, measure: Callable[..., Any], *args: Any) -> Any:
    begin = time.perf_counter()
    found = measure(*args)
    print(f"{title}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return found


def _versions() -> str:
    import peft
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {torch.get_num_threads()} threads by default, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
