"""The figures: each function measures one of them on one network and gives plain numbers."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import subsense as ss
import subsense.model.rows
from benchmarks.speed import ways
from benchmarks.speed.measuring import Effort, Functions, difference, kept_bytes, milliseconds, peak_bytes, ratios
from benchmarks.speed.networks import Case
from benchmarks.speed.ways import Way

Numbers = dict[str, Any]


def training_step(case: Case, device: str, effort: Effort) -> Numbers:
    """Time a training step (forward, backward) of each way as a ratio to the floor's."""
    made = {name: make(case, device) for name, make in ways.WAYS.items()}
    return ratios({name: _step(case, way) for name, way in made.items()}, "floor", effort, device)


def memory(case: Case, device: str) -> Numbers:
    """Measure what autograd keeps and the allocator's peak over a step."""
    numbers: dict[str, dict[str, float]] = {}
    for name, make in ways.WAYS.items():
        way = make(case, device)
        step = _step(case, way)
        step()  # whatever is set up once
        step()
        numbers[name] = {"kept": kept_bytes(way.run, way.module), "peak": peak_bytes(step, device)}
    base = numbers["floor"]
    above = numbers["naive"]["kept"] - base["kept"]
    for one in numbers.values():
        one["kept above floor / naive's"] = (one["kept"] - base["kept"]) / above
        one["kept / floor"], one["peak / floor"] = one["kept"] / base["kept"], one["peak"] / base["peak"]
    return numbers


def inference(case: Case, device: str, effort: Effort) -> Numbers:
    """Time inference of one combination, folded and not folded, and with everything present."""
    robust = ways.adapted(case, device).eval()
    folded = ss.fold(robust, case.kept).to(device)
    inputs = ways.on(case.inputs(), device)
    one = robust.modalities.present(case.kept).expand(case.batch, -1)
    functions = {
        "frozen": ways.frozen(case, device).run,
        "subsense": lambda: robust(inputs, one),
        "subsense, folded": ways.caller(case, folded, device),
        "subsense, nothing missing": lambda: robust(inputs),
        "naive": ways.naive(case, device).run,
        "peft lora": ways.lora(case, device).run,
    }
    return ratios(_without_gradients(functions), "frozen", effort, device)


def quality(case: Case, device: str, effort: Effort) -> Numbers:
    """Time a monitor that finds nothing wrong, and `present` as a quality beside the same as bool."""
    robust = ways.adapted(case, device, "additive").eval()
    healthy = [ways.on(case.inputs(seed=seed), device) for seed in range(math.ceil(120 / case.batch))]
    monitor = ss.Monitor(robust, healthy, chosen_by=1, kinds=["noise"])
    inputs = next(one for one in healthy if not monitor(one).doubted.any())
    some = robust.modalities.present(case.kept).expand(case.batch, -1)
    functions = {
        "nothing missing": lambda: robust(inputs),
        "auto": lambda: robust(inputs, present="auto"),
        "bool": lambda: robust(inputs, some),
        "0 or 1": lambda: robust(inputs, some.float()),
        "a quality of 0.5": lambda: robust(inputs, torch.where(some, 1.0, 0.5)),
    }
    numbers = ratios(_without_gradients(functions), "nothing missing", effort, device)
    both = ratios(_without_gradients({name: functions[name] for name in ("bool", "0 or 1")}), "bool", effort, device)
    return {**numbers, "float / bool": both["0 or 1"]}


def mixed_batch(case: Case, device: str, effort: Effort) -> Numbers:
    """Time a batch of 15 rows with 15 combinations."""
    robust = ways.adapted(case, device).eval()
    inputs, present = ways.on(case.inputs(15), device), ways.cycle(robust, 15)
    additive = ways.adapted(case, device, "additive").eval()
    functions = {
        "frozen": ways.caller(case, case.network().to(device), device, 15),
        "subsense": lambda: robust(inputs, present),
        "subsense, additive": lambda: additive(inputs, present),
        "loop over combinations": _loop(robust, inputs, present),
        "peft lora": ways.lora_mixed(case, device, 15),
    }
    return ratios(_without_gradients(functions), "frozen", effort, device)


def few_combinations(case: Case, device: str, effort: Effort) -> Numbers:
    """Time four large images of two combinations: as subsense chooses, gathered, one combination after the other."""
    robust = ways.adapted(case, device).eval()
    sizes = {name: 2 * size for name, size in case.sizes.items()}
    inputs = ways.on(case.inputs(4, **sizes), device)
    present = ways.cycle(robust, 2).repeat(2, 1)

    def gathered() -> None:
        with mock.patch.object(subsense.model.rows, "LARGE_GROUP", math.inf):
            robust(inputs, present)

    functions = {
        "frozen": ways.caller(case, case.network().to(device), device, 4, **sizes),
        "subsense": lambda: robust(inputs, present),
        "gathered": gathered,
        "loop over combinations": _loop(robust, inputs, present),
    }
    return ratios(_without_gradients(functions), "frozen", effort, device)


def switching(case: Case, device: str, effort: Effort) -> Numbers:
    """Time a switch: what chooses the set, and a forward of one row after a switch against one without.

    The second is all that a switch can cost, whatever it touches; the first is our part of it, without the noise that
    a forward has.
    """
    robust = ways.adapted(case, device).eval()
    turns = itertools.count()
    presents = [robust.modalities.present(one)[None] for one in robust.combinations]
    inputs = ways.on(case.inputs(1, **dict.fromkeys(case.sizes, 32)), device)

    def forward(turn: int) -> None:
        with torch.no_grad():
            robust(inputs, presents[turn % len(presents)])

    current = 0

    def switched() -> None:
        nonlocal current
        current = next(turns)
        forward(current)

    return {
        "subsense, choosing": {"us": _choosing(robust) * 1e3},
        "subsense, forward after a switch - without": difference(lambda: forward(current), switched, effort, device),
        "peft lora, set_adapter": {"us": _peft_switch(case, device) * 1e3},
    }


def handling(case: Case, device: str) -> Numbers:
    """Time what is done around the network: inject, save, load; sizes on disk."""
    robust = ways.adapted(case, device).eval()
    numbers = {"inject 15 sets": milliseconds(lambda: _inject(case, robust), 7)}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        numbers["save"] = milliseconds(lambda: ss.save(robust, folder), 5)
        numbers["bytes"] = disk_size(folder)
        network = robust.detach()
        numbers["fingerprint"] = milliseconds(lambda: robust.network_fingerprint(), 5)
        numbers["load 15 sets"] = milliseconds(lambda: ss.load(folder, network, call=_function(case)).detach(), 7)
    return numbers | {f"peft {name}": number for name, number in _peft_handling(case, device).items()}


def importing(effort: Effort) -> Numbers:
    """Time a new process that imports subsense beside one that imports torch alone, bytecode kept as when installed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def start(statement: str) -> Callable[[], None]:
        return lambda: subprocess.run([sys.executable, "-c", statement], check=True, env=env) and None

    return ratios(
        {"torch": start("import torch"), "subsense": start("import subsense; subsense.adapt")},
        "torch",
        effort,
        "process",
    )


def graphs(case: Case, device: str) -> Numbers:
    """Count the graphs that torch.compile makes for all combinations, and compare an exported program with eager."""
    if not case.compiles:
        return {"skipped": "the network chooses tokens by indices that depend on the data, which no graph can hold"}
    robust = ways.adapted(case, device).eval()
    inputs = ways.on(case.inputs(2), device)
    robust.locate(inputs)
    made: list[Any] = []
    compiled = torch.compile(robust, backend=lambda graph, example: made.append(graph) or graph.forward, fullgraph=True)
    program = torch.export.export(robust, (inputs, ways.cycle(robust, 2))).module()
    worst = 0.0
    with torch.no_grad():
        for combination in (*robust.combinations, robust.modalities.complete):
            present = robust.modalities.present(combination).expand(2, -1)
            compiled(inputs, present)
            expected, found = case.tensor(robust(inputs, present)), case.tensor(program(inputs, present))
            worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    torch._dynamo.reset()
    return {"graphs": len(made), "combinations": len(robust.combinations) + 1, "export differs by": worst}


def disk_size(folder: str) -> int:
    """Count the bytes of all files of a folder."""
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def _step(case: Case, way: Way) -> Callable[[], None]:
    way.module.train(isinstance(way.module, ss.RobustModel))  # all others in eval mode: no statistics, no dropout

    def step() -> None:
        case.tensor(way.run()).float().square().mean().backward()
        for parameter in way.trains:
            parameter.grad = None

    return step


def _without_gradients(functions: Functions) -> Functions:
    return {name: torch.no_grad()(run) for name, run in functions.items()}


def _loop(robust: ss.RobustModel, inputs: Any, present: torch.Tensor) -> Callable[[], None]:
    groups = [(present == row).all(1).nonzero().flatten() for row in present.unique(dim=0)]

    def run() -> None:
        for rows in groups:
            robust({name: tensor[rows.to(tensor.device)] for name, tensor in inputs.items()}, present[rows])

    return run


def _inject(case: Case, robust: ss.RobustModel) -> None:
    network = robust.detach()
    ss.adapt(network, case.modalities, call=case.call, layers=case.layers(network)).detach()
    robust.injection.attach()


def _choosing(robust: ss.RobustModel) -> float:
    """Give the milliseconds that choosing another combination's set takes, of a thousand choices."""
    codes = [robust.modalities.code(one) for one in robust.combinations]
    device = next(robust.parameters()).device

    def choose() -> None:
        for turn in range(1000):
            robust.router.uniform(robust.router.substitute(codes[turn % len(codes)], training=False), device)

    return milliseconds(choose, 5) / 1000


def _peft_switch(case: Case, device: str) -> float:
    model = ways.many_loras(case, device)
    names = list(model.peft_config)
    turns = itertools.count()
    return milliseconds(lambda: model.set_adapter(names[next(turns) % len(names)]), 15)


def _peft_handling(case: Case, device: str) -> Numbers:
    numbers = {"inject 15 sets": milliseconds(lambda: ways.many_loras(case, device), 1)}
    model = ways.many_loras(case, device)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        network = case.network()
        numbers["load 15 sets"] = milliseconds(lambda: ways.load_loras(network, folder, list(model.peft_config)), 1)
    return numbers


def _function(case: Case) -> Any:
    return case.call if callable(case.call) else None


def parameters(module: nn.Module) -> int:
    """Count a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
