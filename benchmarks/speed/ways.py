"""The ways to adapt a network that are compared. Each is what runs: a forward, and the parameters that train."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import subsense as ss
from benchmarks.speed.networks import Case


@dataclass(frozen=True)
class Way:
    """Hold one way to adapt a network.

    Attributes:
        run: runs it on a batch that has one combination.
        trains: its trained parameters.
        module: what holds every weight.
    """

    run: Callable[[], Any]
    trains: list[nn.Parameter]
    module: nn.Module


def frozen(case: Case, device: str) -> Way:
    """Run the frozen network on filled inputs."""
    return _plain(case, case.network().requires_grad_(False), [], device)


def floor(case: Case, device: str) -> Way:
    """Train one number, added to the output of the first layer: a gradient goes through the whole network.

    Where a network begins in several places, there is one number in each.
    """
    network = case.network().requires_grad_(False)
    numbers = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in case.first)
    for path, number in zip(case.first, numbers, strict=True):
        network.get_submodule(path).register_forward_hook(lambda module, args, y, number=number: y + number)
    network.register_module("floor", numbers)
    return _plain(case, network, list(numbers), device)


def naive(case: Case, device: str) -> Way:
    """Train y * gamma + beta, written by hand, at the very sites of the plan."""
    network = case.network().requires_grad_(False)
    pairs = nn.ParameterList()
    for site in ss.plan(network, layers=case.layers(network)).sites:
        module = network.get_submodule(site.layer.path)
        shape = [-1] + [1] * (-site.layer.axis - 1 if site.layer.axis < 0 else 2)
        gamma, beta = (nn.Parameter(value(site.layer.features)) for value in (torch.ones, torch.zeros))
        pairs.extend([gamma, beta])
        module.register_forward_hook(
            lambda module, args, y, g=gamma, b=beta, shape=shape: y * g.view(shape) + b.view(shape)
        )
    network.register_module("pairs", pairs)
    return _plain(case, network, list(pairs), device)


def lora(case: Case, device: str) -> Way:
    """Train peft's LoRA, rank 8, at every linear layer."""
    from peft import LoraConfig

    return _peft(case, LoraConfig(r=8, target_modules=linear_layers(case)), device)


def linear_layers(case: Case) -> str | list[str]:
    """Say to peft: every linear layer. It knows its word for that with transformers' networks alone."""
    from transformers import PreTrainedModel

    network = case.network()
    if isinstance(network, PreTrainedModel):
        return "all-linear"
    return [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]


def ia3(case: Case, device: str) -> Way:
    """Train peft's IA3 at keys, values and feed-forward layers, as in its paper."""
    from peft import IA3Config

    layers, feedforward = case.ia3
    return _peft(case, IA3Config(target_modules=layers, feedforward_modules=feedforward), device)


def whole(case: Case, device: str) -> Way:
    """Train every weight."""
    network = case.network()
    return _plain(case, network, list(network.parameters()), device)


def ssf(case: Case, device: str, sharing: str = "independent") -> Way:
    """Train subsense's SSF; every combination has its set, the batch has one combination."""
    robust = adapted(case, device, sharing)
    inputs = on(case.inputs(), device)
    present = robust.modalities.present(case.kept).expand(case.batch, -1)
    return Way(lambda: robust(inputs, present), list(robust.adapter_parameters().values()), robust)


def ssf_mixed(case: Case, device: str, sharing: str = "independent") -> Way:
    """Train subsense's SSF jointly: the rows of a batch have different combinations."""
    robust = adapted(case, device, sharing)
    inputs, present = on(case.inputs(), device), cycle(robust, case.batch)
    robust(inputs, present)
    return Way(lambda: robust(inputs, present), list(robust.adapter_parameters().values()), robust)


def adapted(case: Case, device: str, sharing: str = "independent") -> ss.RobustModel:
    """Adapt a case's network, all sets trained as far as the router knows, each doing something."""
    network = case.network().to(device)
    robust = ss.adapt(
        network, case.modalities, call=case.call, layers=case.layers(network), sharing=sharing, untrained="error"
    )
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.normal_(std=0.02)
    robust.mark_trained(robust.combinations)
    return robust


def cycle(robust: ss.RobustModel, rows: int) -> Tensor:
    """Give each row of a batch the next combination: present (row, modality)."""
    combinations = (*robust.combinations, robust.modalities.complete)
    return torch.stack([robust.modalities.present(combinations[row % len(combinations)]) for row in range(rows)])


def many_loras(case: Case, device: str, sets: int = 15) -> Any:
    """Give a peft model with so many LoRA sets."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, target_modules=linear_layers(case))
    model = get_peft_model(case.network(), config, adapter_name="set0")
    for number in range(1, sets):
        model.add_adapter(f"set{number}", config)
    return model.to(device).eval()


def load_loras(network: nn.Module, folder: str, names: list[str]) -> Any:
    """Load LoRA sets that peft saved."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(network, f"{folder}/{names[0]}", adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(f"{folder}/{name}", adapter_name=name)
    return model


def lora_mixed(case: Case, device: str, rows: int) -> Callable[[], Any]:
    """Run peft on a batch in which each row names its own LoRA set."""
    model = many_loras(case, device, rows)
    names = list(model.peft_config)
    return caller(case, lambda *args, **kwargs: model(*args, adapter_names=names, **kwargs), device, rows)


def _plain(case: Case, network: nn.Module, trains: Iterable[nn.Parameter], device: str) -> Way:
    network.to(device)
    call = caller(case, network, device)
    return Way(call, list(trains), network)


def caller(
    case: Case, network: Callable[..., Any], device: str, rows: int | None = None, **sizes: int
) -> Callable[[], Any]:
    """Call a network on zero-filled inputs of one combination; filling is done beforehand."""
    kept = case.kept.split("+")
    filled = {name: value if name in kept else torch.zeros_like(value)
              for name, value in on(case.inputs(rows, **sizes), device).items()}  # fmt: skip
    if callable(case.call):
        return lambda: case.call(network, filled)
    if case.call == "list":
        return lambda: network(list(filled.values()))
    stacked = torch.cat(list(filled.values()), 1)
    return lambda: network(stacked)


def _peft(case: Case, config: Any, device: str) -> Way:
    from peft import get_peft_model

    model = get_peft_model(case.network(), config)
    inner = model.base_model.model if case.call == "list" else model
    return _plain(case, inner, [one for one in model.parameters() if one.requires_grad], device)


def on(inputs: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """Move a batch to a device."""
    return {name: tensor.to(device) for name, tensor in inputs.items()}


WAYS: dict[str, Callable[[Case, str], Way]] = {
    "floor": floor,
    "subsense ssf": ssf,
    "subsense ssf, mixed rows": ssf_mixed,
    "naive": naive,
    "peft lora": lora,
    "peft ia3": ia3,
    "all weights": whole,
}
