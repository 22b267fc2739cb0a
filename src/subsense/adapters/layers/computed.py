"""Layers whose weight is made of other parameters at each call: weight-normed, spectral-normed, orthogonal.

The network is frozen and in eval mode, so such a weight is a constant, and an adapter acts on what the layer gives. To
fold, the constant is written down first, since what is folded into it would be computed away by the next call.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

NAMES = ("weight", "bias")
_MADE = {WeightNorm: ("g", "v"), SpectralNorm: ("orig",)}
"""The hooks of torch's first way to do it, and how they call what they make a weight of."""


def made_of(module: nn.Module) -> tuple[str, ...] | None:
    """Give the parameters of which a layer's weight and bias are made; none where they are plain ones.

    None: they are made in a way that isn't known to give the same each time.

    >>> made_of(torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)))
    ('parametrizations.weight.original0', 'parametrizations.weight.original1')
    >>> made_of(nn.Linear(2, 3))
    ()
    """
    names: list[str] = []
    for name in NAMES:
        if name in module._parameters or (getattr(type(module), name, None) is None and name not in vars(module)):
            continue
        if not parametrize.is_parametrized(module, name):
            hook = _hook(module, name)
            if hook is None:
                return None
            names += [f"{name}_{part}" for part in _MADE[type(hook)]]
        elif _is_steady(module, name):
            made = module.get_submodule(f"parametrizations.{name}").named_parameters()
            names += [f"parametrizations.{name}.{part}" for part, _ in made]
        else:
            return None
    return tuple(names)


def shape_of(module: nn.Module, name: str) -> tuple[int, ...]:
    """Give the shape of a weight, without making it: some count how often that is done."""
    plain = module._parameters.get(name)
    if plain is not None:
        return tuple(plain.shape)
    return tuple(vars(module)[name].shape) if name in vars(module) else tuple(_made(module, name).shape)


def refresh(network: nn.Module) -> None:
    """Make weights anew, without gradients, where a hook does: as it leaves them at first they can't be copied."""
    with torch.no_grad():
        for module in network.modules():
            for hook in _hooks(module):
                hook(module, None)


def make_plain(module: nn.Module) -> None:
    """Write down what the weights of a layer are made to be, and make them no more."""
    for name in NAMES:
        hook = _hook(module, name)
        if parametrize.is_parametrized(module, name):
            own = type(module)  # a copy shares it with what it was copied from, and removing takes the weight out of it
            module.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))
            parametrize.remove_parametrizations(module, name)
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(module, name)
        elif hook is not None:
            remove_spectral_norm(module, name)


def _made(module: nn.Module, name: str) -> Tensor:
    """Make a weight by a copy of what makes it, in eval mode."""
    with torch.no_grad():
        made: Tensor = copy.deepcopy(module.get_submodule(f"parametrizations.{name}")).eval()()
    return made


def _is_steady(module: nn.Module, name: str) -> bool:
    return torch.equal(_made(module, name), _made(module, name))


def _hooks(module: nn.Module) -> Iterator[WeightNorm | SpectralNorm]:
    return (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm))


def _hook(module: nn.Module, name: str) -> WeightNorm | SpectralNorm | None:
    return next((hook for hook in _hooks(module) if hook.name == name), None)
