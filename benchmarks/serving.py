"""Measure `subsense serve`: requests that each lack something, together in one pass, against one after the other.

    OMP_NUM_THREADS=1 python benchmarks/serving.py --output serving.json

Two servers of the same network run: one takes up to 16 rows into a pass, one takes each alone. In each round 16 clients
ask either, and one client asks the first in a loop of single requests; another way begins with each round. Requests
go through all combinations of the modalities in turn. Clients and servers share the processor. Throughput is the median
of the rounds, and as a ratio to the loop of the same round; p99 is that of all requests. Weights and adapter sets are
drawn with seed 0.
Prints a Markdown table. Needs ``subsense[serve]``.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import itertools
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from one_file import cases

import subsense as ss

CLIENTS = 16
Way = tuple[int, int]
"""(port, clients)"""


@dataclass
class Times:
    """Gather what one way took."""

    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def make(index: int) -> ss.RobustModel:
    """Make the network of a case, adapted, with sets drawn at random."""
    torch.manual_seed(0)
    robust = cases("independent")[index][1]()
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    robust.mark_trained("all")
    return robust.eval()


def serve(index: int, port: int, max_batch_size: int) -> None:
    """Run a server, until the process is ended."""
    from subsense.integrations.serving.server import make_server

    torch.set_num_threads(1)
    names = [*map(str, make(index).combinations), "+".join(make(index).modalities)]
    server = make_server(partial(make, index), names, max_batch_size=max_batch_size, accelerator="cpu")
    server.run(port=port, log_level="error", generate_client_file=False)


def bodies(index: int) -> list[bytes]:
    """Give one request for each combination, the arrays in base64."""
    _, _, draw = cases("independent")[index]
    row = draw(1)
    everything = [some for size in range(1, len(row) + 1) for some in itertools.combinations(row, size)]
    return [
        json.dumps({"inputs": {one: {"npy": _encoded(row[one][0].numpy())} for one in some}}).encode()
        for some in everything
    ]


def _encoded(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def ask(port: int, requests: list[bytes]) -> list[float]:
    """Send requests one after the other over one connection; give how long each took, in seconds."""
    connection, found = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    for body in requests:
        began = time.perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        found.append(time.perf_counter() - began)
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}: {text[:200]!r}")
    return found


def run_way(way: Way, requests: list[bytes], each: int) -> tuple[float, list[float]]:
    """Let clients ask at once; give requests a second, and how long each took."""
    port, clients = way
    turns = [list(itertools.islice(itertools.cycle(requests), start, start + each)) for start in range(clients)]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waits = [one for found in pool.map(lambda own: ask(port, own), turns) for one in found]
    return len(waits) / (time.perf_counter() - began), waits


def measure(index: int, rounds: int, each: int) -> dict[str, Times]:
    """Start both servers, and ask them in turns."""
    ports = _free(), _free()
    servers = [_start(index, port, most) for port, most in zip(ports, (CLIENTS, 1), strict=True)]
    ways: dict[str, Way] = {
        "loop of single requests": (ports[0], 1),
        "16 clients, a row a pass": (ports[1], CLIENTS),
        "16 clients, rows together": (ports[0], CLIENTS),
    }
    found, requests = {name: Times() for name in ways}, bodies(index)
    try:
        for port in ports:
            _wait(port, requests[0])
        for number in range(rounds):
            rates = {}
            for name in sorted(ways, key=list(ways).index, reverse=bool(number % 2)):
                clients = ways[name][1]
                rates[name], waits = run_way(ways[name], requests, each if clients > 1 else 4 * each)
                found[name].waits += waits
            for name, rate in rates.items():
                found[name].rates.append(rate)
                found[name].ratios.append(rate / rates["loop of single requests"])
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGKILL)  # a server has processes of its own
            server.wait()
    return found


def _start(index: int, port: int, max_batch_size: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--serve", str(index), str(port), str(max_batch_size)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait(port: int, body: bytes) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            ask(port, [body])
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the server doesn't answer")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--each", type=int, default=30, help="requests of each of the 16 clients in a round")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    rows = []
    print("| network | asked by | requests a second | / loop | p99, ms |")
    print("|---|---|---|---|---|")
    for index, case in enumerate(cases("independent")):
        for way, times in measure(index, options.rounds, options.each).items():
            rate, ratio = statistics.median(times.rates), statistics.median(times.ratios)
            slowest = 1000 * float(np.quantile(times.waits, 0.99))
            print(f"| {case[0]} | {way} | {rate:,.0f} | {ratio:.2f} | {slowest:,.0f} |", flush=True)
            rows.append({"network": case[0], "way": way, **asdict(times)})
    if options.output:
        facts = {name: version(name) for name in ("torch", "litserve")}
        facts |= {"processor": platform.processor(), "cores": str(os.cpu_count())}
        options.output.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
