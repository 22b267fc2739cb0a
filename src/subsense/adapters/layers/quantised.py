"""Linear layers whose frozen weight is kept in 8 or 4 bits: those of torchao and bitsandbytes.

Adapters act on what such a layer is given and gives, as in QLoRA (arXiv 2305.14314). Its `weight` holds codes, or is a
tensor without arithmetic, so what would read it is off. The numbers that the codes stand for are asked of the layer
itself: they are what it gives for unit vectors, whatever its library's format is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.adapters.layers.kinds import LINEAR
from subsense.adapters.layers.layer import Layer, Slot
from subsense.errors import UnsupportedLayer
from subsense.support.torch_private import is_hook_place, loaded

_LAYERS: Mapping[str, str] = {
    "bitsandbytes.nn:Linear8bitLt": "bitsandbytes",
    "bitsandbytes.nn:Linear4bit": "bitsandbytes",
    "optimum.quanto:QLinear": "quanto",
}
_TENSORS: Mapping[str, str] = {"torchao.utils:TorchAOBaseTensor": "torchao"}
ROWS = 1024
"""Unit vectors for which a layer is run at once."""
OFF = 0.05
"""How far, as a share of the greatest output, what a layer gives may be from what its decoded weight gives."""


@dataclass(frozen=True)
class Codes(Slot):
    """Point at a weight that is kept in codes; `read` gives the numbers for which they stand."""

    def read(self, layer: nn.Module) -> Tensor | None:
        """Decode the weight."""
        return decoded(layer)


def quantiser_of(module: nn.Module) -> str | None:
    """Name the library that keeps the weight of a linear layer in codes; None where it is a plain one.

    >>> quantiser_of(nn.Linear(2, 2))
    """
    if not isinstance(module, nn.Linear) or type(module._parameters.get("weight")) is nn.Parameter:
        return None
    found = (name for cls, name in loaded(_LAYERS).items() if isinstance(module, cls))
    of_weight = (name for cls, name in loaded(_TENSORS).items() if isinstance(module._parameters.get("weight"), cls))
    return next(found, None) or (next(of_weight, None) if type(module) is nn.Linear else None)


def quantised_layer(path: str, module: nn.Module, library: str) -> Layer | UnsupportedLayer:
    """Describe a linear layer whose weight is kept in codes, or say why it can't be served."""
    assert isinstance(module, nn.Linear)
    name, features = type(module).__name__, (module.out_features,)
    why: str | None
    if library == "quanto":
        why = "it is quantised by quanto, of whose weights torch can make no copy; quantise by torchao or bitsandbytes"
    else:
        why = _why_not(module)
    if why:
        return UnsupportedLayer(f"{path or 'the network'} ({name}): {why}, or exclude it")
    weight, bias = Codes("weight", (*features, module.in_features)), Slot("bias", features)
    return Layer(path, LINEAR, name, features, -1, weight, bias, declared=True, quantised=True)


def decoded(module: nn.Module) -> Tensor:
    """Give the numbers (output, input) for which the codes of a linear layer's weight stand.

    Raises:
        UnsupportedLayer: it doesn't compute what a linear layer with these numbers does.
    """
    assert isinstance(module, nn.Linear)
    like, bias = _inputs(module), module._parameters["bias"]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        units = torch.eye(module.in_features, dtype=like.dtype, device=like.device)
        weight = torch.cat([_run(module, some, None) for some in units.split(ROWS)]).T.contiguous()
        x = torch.randn(2, module.in_features).to(like)
        y, expected = _run(module, x, bias), F.linear(x, weight, None if bias is None else bias.to(x.dtype))
    if not (y - expected).abs().max() <= OFF * y.abs().max():
        raise UnsupportedLayer(
            f"{type(module).__name__}: what it gives isn't its decoded weight times its input, so nothing can be "
            "folded into it; exclude it"
        )
    return weight


def unfoldable(module: nn.Module) -> str | None:
    """Say why no plain layer gives what a layer with a weight in codes gives; None where one does."""
    if isinstance(module, tuple(loaded({"bitsandbytes.nn:Linear8bitLt": ""}))):
        return (
            "bitsandbytes' 8-bit layers round what they are given to 8 bits, too, so a plain layer gives other numbers "
            "(by a hundredth); serve the adapted network itself, or train on 4-bit or torchao's weights"
        )
    return None


def make_linear(module: nn.Module) -> None:
    """Make a plain `nn.Linear` of a layer, in its place; its weight stays as it is until another is put there."""
    assert isinstance(module, nn.Linear)
    plain = vars(nn.Linear(module.in_features, module.out_features, device="meta"))
    keeps = {"_parameters", "training", *(name for name in plain if is_hook_place(name) and "state_dict" not in name)}
    kept = {name: value for name, value in vars(module).items() if name in keeps}
    vars(module).clear()
    module.__class__ = nn.Linear
    vars(module).update(plain | kept)


def _why_not(module: nn.Linear) -> str | None:
    """Say why adapters can't act at a layer: no gradient gets past it, or will once it has been run without."""
    if _inputs(module).is_cpu and getattr(module, "support_avx512bf16_for_cpu", False):
        return (
            "its first call without gradients packs its weight for the CPU, after which none gets through; load it "
            "anew and, before any call, say `support_avx512bf16_for_cpu = False` of each such layer"
        )
    with torch.enable_grad():
        x = _inputs(module).requires_grad_()
        y = _run(module, x, None)
        passes = y.requires_grad and torch.autograd.grad(y.sum(), x, allow_unused=True)[0] is not None
    if passes:
        return None
    return (
        "its inputs are quantised, too, which lets no gradient through to what comes before; quantise weights alone "
        "(torchao: Int8WeightOnlyConfig, IntxWeightOnlyConfig), or quantise the folded network"
    )


def _inputs(module: nn.Linear) -> Tensor:
    """Give one row of the dtype, and on the device, that the layer takes."""
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    assert weight is not None
    floats = (one.dtype for one in (weight, bias) if one is not None and one.is_floating_point())
    return torch.ones(1, module.in_features, dtype=next(floats, torch.float32), device=weight.device)


def _run(module: nn.Linear, x: Tensor, bias: nn.Parameter | None) -> Tensor:
    """Run a layer without its hooks and with another bias."""
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters)
    twin._parameters["bias"] = bias
    output: Tensor = type(module).forward(twin, x)
    return output
