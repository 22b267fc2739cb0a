"""How cost grows with the number of modalities, M = 2 to 8, which is 3 to 255 combinations."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

import subsense as ss
from benchmarks.speed import figures, ways
from benchmarks.speed.measuring import Effort, kept_bytes, milliseconds, ratios
from benchmarks.speed.networks import Case, segformer, vilt
from subsense.training.step import make_adamw

Numbers = dict[str, Any]
SMALL = {"H": 64, "W": 64}  # small images, so that what grows is seen and not drowned by the network
ROWS = 8


def growth(number: int, sharing: str, device: str, effort: Effort) -> Numbers:
    """Measure SegFormer-B0 on so many bands."""
    return {"modalities": number, "sharing": sharing} | _one(segformer(number), sharing, device, effort)


def _one(case: Case, sharing: str, device: str, effort: Effort) -> Numbers:
    robust = ways.adapted(case, device, sharing)
    inputs, present = ways.on(case.inputs(ROWS, **SMALL), device), ways.cycle(robust, ROWS)
    robust.train().locate(inputs)
    optimiser = make_adamw(robust.adapter_parameters().values(), lr=0.0, weight_decay=0.0)
    floor = ways.floor(case, device).module
    stacked = torch.cat(list(inputs.values()), 1)

    def step() -> None:
        case.tensor(robust(inputs, present)).square().mean().backward()
        optimiser.zero_grad()

    def full() -> None:
        case.tensor(robust(inputs, present)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    def bare() -> None:
        case.tensor(floor(stacked)).square().mean().backward()

    timed = ratios({"floor": bare, "step": step, "with AdamW": full}, "floor", effort, device)
    numbers = {
        "combinations": 2 ** len(robust.modalities) - 1,
        "step / floor": timed["step"]["ratio"],
        "step with AdamW / floor": timed["with AdamW"]["ratio"],
        "kept bytes": kept_bytes(lambda: robust(inputs, present), robust),
        "bank bytes": sum(bank.numel() * bank.element_size() for bank in robust.banks.parameters()),
    }
    return numbers | _handling(case, robust.eval(), sharing, inputs, device)


def _handling(case: Case, robust: ss.RobustModel, sharing: str, inputs: Any, device: str) -> Numbers:
    few = {name: tensor[:2] for name, tensor in inputs.items()}
    batch = [(few, torch.zeros(2, 16, 16, dtype=torch.int64))]
    numbers = {"evaluate ms": milliseconds(lambda: _evaluate(robust, batch), 1)}
    with tempfile.TemporaryDirectory() as folder:
        numbers["save ms"] = milliseconds(lambda: ss.save(robust, folder), 3)
        numbers["disk bytes"] = figures.disk_size(folder)
        network = robust.detach()
        numbers["adapt ms"] = milliseconds(
            lambda: ss.adapt(network, case.modalities, call=case.call, sharing=sharing).detach(), 3
        )
        numbers["load ms"] = milliseconds(lambda: ss.load(folder, network).detach(), 3)
    return numbers


def _evaluate(robust: ss.RobustModel, batches: Any) -> None:
    """Run every combination once over the data, as an evaluation does."""
    with torch.no_grad():
        for combination in (*robust.combinations, robust.modalities.complete):
            for inputs, _ in batches:
                robust({name: inputs[name] for name in combination})


def size(number: int) -> Numbers:
    """Give ViLT's size on disk with so many modalities, for both sharings."""
    case = vilt(number)
    found: Numbers = {"modalities": number, "combinations": 2**number - 1}
    for sharing in ("independent", "additive"):
        robust = case.adapt(sharing=sharing)
        with tempfile.TemporaryDirectory() as folder:
            ss.save(robust, folder)
            found[f"{sharing} bytes"] = figures.disk_size(folder)
    return found | {"additive bytes, a combination": found["additive bytes"] // found["combinations"]}
