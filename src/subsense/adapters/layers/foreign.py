"""Layers that are none of torch's plain ones: scripted, quantised, or with parameters of another class."""

from __future__ import annotations

import torch
from torch import nn

from subsense.support.torch_private import loaded

_QUANTISED = ("torch.ao.nn.", "torch.ao.quantization.", "torch.nn.quantized.")


def foreign(module: nn.Module) -> str | None:
    """Say why adapters can't act inside a module though it may hold layers; None where they can.

    >>> foreign(torch.jit.script(nn.Linear(2, 2)))
    'it is a TorchScript module, in which no hook acts; use the module that it was made from, or exclude it'
    >>> foreign(nn.Linear(2, 2))
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module, in which no hook acts; use the module that it was made from, or exclude it"
    if _is_quantised(type(module)):
        return (
            "it is quantised, so no scale, shift or low-rank difference can be folded into it; quantise the folded "
            "network instead, or exclude it"
        )
    if codes := _codes(module):
        return (
            f"its weight is kept in codes ({codes}) of a library that isn't served; quantise by torchao or "
            "bitsandbytes, or exclude it"
        )
    return None


def may_be_layer(module: nn.Module) -> bool:
    """Say whether a module holds what a layer holds, and nothing that holds parameters itself."""
    own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
    names = set(own) == {"weight"} or set(own) == {"weight", "bias"}
    return names and own["weight"].dim() in (1, 2) and not any(True for child in module.children())


def strange_tensor(module: nn.Module) -> str | None:
    """Say which parameter of a module is no plain one: sharded, quantised or otherwise computed with by a class."""
    for name, parameter in module._parameters.items():
        kind = type(parameter)
        plain = (nn.Parameter, nn.UninitializedParameter, *loaded({"torch.distributed.tensor:DTensor": ""}))
        if parameter is not None and kind not in plain:  # how a DTensor is split is looked at before
            return f"its {name} is a {kind.__name__}, no plain parameter"
    return None


def _codes(module: nn.Module) -> str | None:
    """Name the whole numbers in which a linear layer of GPTQ, AWQ and their like keeps its weight, most in buffers."""
    if isinstance(module, nn.Linear) or not (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return None
    own = {**module._buffers, **module._parameters}
    tensors = {name: one for name, one in own.items() if one is not None and name != "bias"}
    if any(one.is_floating_point() for name, one in tensors.items() if name in module._parameters):
        return None
    return next((name for name, one in tensors.items() if not one.is_floating_point()), None)


def _is_quantised(cls: type) -> bool:
    """Say whether a class is of torch's quantisation; observers and fake-quantised stand-ins for layers are, too."""
    return any(base.__module__.startswith(_QUANTISED) for base in cls.__mro__)
