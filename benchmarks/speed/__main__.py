"""Measure what adapters cost: every row of docs/performance.md's table, as JSON and Markdown.

    python -m benchmarks.speed --out build/speed      (make bench)
    python -m benchmarks.speed --quick                (every figure once, on small inputs: does it run?)

Everything is measured against the frozen network in the same run. Both files are written anew after each figure, the
most important one first, so that an interrupted run keeps what it has. See docs/performance.md for what each figure is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.jobs import Job, jobs
from benchmarks.speed.networks import CASES
from benchmarks.speed.table import markdown


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = _about(options, arguments) | {"seconds": 0.0, "measured": []}
    threads_before = torch.get_num_threads()
    chosen = [job for job in jobs(options.networks, options.threads, options.device, options.quick)
              if not options.figures or job.figure in options.figures]  # fmt: skip
    if not chosen:
        sys.exit("nothing to measure: no such figure of these networks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _measure(chosen, result, options.out)
    torch.set_num_threads(threads_before)
    print(markdown(result))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/speed"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--figures", nargs="+", metavar="FIGURE", help="of these alone, as the table's headings say")
    parser.add_argument("--quick", action="store_true", help="every figure once, on small inputs: numbers mean nothing")
    return parser.parse_args(arguments)


def _measure(chosen: Sequence[Job], result: dict[str, Any], out: Path) -> None:
    begin = time.perf_counter()
    for number, job in enumerate(chosen, 1):
        torch.set_num_threads(job.threads)
        before = time.perf_counter()
        entry = {"figure": job.figure, "network": job.network, "threads": job.threads, "numbers": job.run()}
        now = time.perf_counter()
        result["measured"].append(entry | {"seconds": round(now - before, 1)})
        result["seconds"] = round(now - begin, 1)
        (out / "speed.json").write_text(json.dumps(result, indent=2) + "\n")
        (out / "speed.md").write_text(markdown(result))
        name = f"{job.figure}: {job.network}, {job.threads} thread{'s' * (job.threads > 1)}"
        print(
            f"[{now - begin:4.0f} s] {number}/{len(chosen)} {name}: {now - before:.0f} s", file=sys.stderr, flush=True
        )


def _about(options: argparse.Namespace, arguments: Sequence[str] | None) -> dict[str, Any]:
    given = sys.argv[1:] if arguments is None else arguments
    return {
        "command": shlex.join(["python", "-m", "benchmarks.speed", *given]),
        "versions": _versions(),
        "machine": _machine(),
        "load before": round(os.getloadavg()[0], 1),
        "device": options.device if options.device == "cpu" else torch.cuda.get_device_name(options.device),
        "seed": 0,
    }  # fmt: skip


def _versions() -> str:
    import peft
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
