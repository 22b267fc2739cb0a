"""Time and memory of functions, told apart from the noise of a machine that others use too.

Times are medians of ratios: in each round every way runs once, one after the other, and is divided by what the
reference took in the same round. With one thread the clock is the thread's CPU time (`time.thread_time`), which does
not count while another process runs; with several it is the wall clock, since CPU time adds threads up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Functions = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Effort:
    """Say how long to measure: so many rounds at least, and more of them for so many seconds."""

    rounds: int = 5
    seconds: float = 10.0


def ratios(functions: Functions, reference: str, effort: Effort, device: str = "cpu") -> dict[str, dict[str, float]]:
    """Run functions interleaved, in rounds.

    Returns:
        name -> median time in milliseconds, median ratio to the reference of the same round, and half the distance
        between the ratios' quartiles.
    """
    for run in functions.values():
        run()
    rounds: list[dict[str, float]] = []
    end = time.perf_counter() + effort.seconds
    while len(rounds) < effort.rounds or time.perf_counter() < end:
        rounds.append({name: _time(run, device) for name, run in _turned(functions, len(rounds))})
    return {name: _summary([one[name] for one in rounds], [one[reference] for one in rounds]) for name in functions}


def milliseconds(run: Callable[[], Any], repeats: int = 11, device: str = "cpu") -> float:
    """Give the median time of a function."""
    return statistics.median(_time(run, device) for _ in range(repeats)) * 1e3


def difference(
    first: Callable[[], Any], second: Callable[[], Any], effort: Effort, device: str = "cpu"
) -> dict[str, float]:
    """Give by how many microseconds the second of two calls takes longer: the median over rounds of both.

    `noise` is the standard error of that median, were the differences normal: 1.25 deviations / sqrt(rounds).
    """
    first(), second()
    found: list[float] = []
    end = time.perf_counter() + effort.seconds
    while len(found) < effort.rounds or time.perf_counter() < end:
        before = _time(first, device)
        found.append((_time(second, device) - before) * 1e6)
    noise = 1.25 * statistics.stdev(found) / len(found) ** 0.5
    return {"us": statistics.median(found), "noise us": noise, "rounds": len(found)}


def kept_bytes(run: Callable[[], Any], module: nn.Module) -> int:
    """Count the bytes that autograd keeps for the backward pass of a forward, beyond parameters and buffers.

    Every tensor that a node saves passes `saved_tensors_hooks`; each storage counts once and whole, however many nodes
    or views hold it.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        alias = tensor.detach()
        held[alias.untyped_storage().data_ptr()] = alias  # held, so that no other storage gets this address
        return alias

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    size = sum(tensor.untyped_storage().nbytes() for pointer, tensor in held.items() if pointer not in own)
    del output
    return size


def peak_bytes(step: Callable[[], Any], device: str = "cpu") -> int:
    """Give the allocator's peak during a step, above what was allocated before it.

    On CPU torch's profiler records every allocation and release of the allocator; their running sum has this peak. It
    is exact and does not depend on the machine, unlike the process' resident size.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def _turned(functions: Functions, by: int) -> list[tuple[str, Callable[[], Any]]]:
    """Begin with another function in every round, so that none always follows the same one."""
    pairs = list(functions.items())
    by %= len(pairs)
    return pairs[by:] + pairs[:by]


def _time(run: Callable[[], Any], device: str) -> float:
    """Give the seconds that a function takes; device `process` means that its work is done by another process."""
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    wait = torch.cuda.synchronize if device not in ("cpu", "process") else lambda: None
    wait()
    begin = clock()
    run()
    wait()
    return clock() - begin


def _summary(times: list[float], references: list[float]) -> dict[str, float]:
    found = sorted(one / reference for one, reference in zip(times, references, strict=True))
    low, _, high = statistics.quantiles(found, n=4)
    return {
        "ms": statistics.median(times) * 1e3,
        "ratio": statistics.median(found),
        "spread": (high - low) / 2,
        "rounds": len(times),
    }
