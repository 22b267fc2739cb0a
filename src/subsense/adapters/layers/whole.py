"""Describe layers that are adapted as a whole: recurrent ones, and experts whose weights are packed in one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from subsense.adapters.layers.kinds import EXPERTS, LINEAR
from subsense.adapters.layers.layer import Layer, Slot
from subsense.support.torch_private import own_forward

RECURRENT = nn.RNNBase, nn.RNNCellBase
_UP, _DOWN = "gate_up_proj", "down_proj"


def whole_layers(path: str, module: nn.Module) -> Iterator[Layer]:
    """Give the weights of a recurrent layer or of packed experts as layers; nothing of another module.

    >>> [layer.part for layer in whole_layers("body", nn.GRU(2, 3))]
    ['weight_ih_l0', 'weight_hh_l0']
    """
    if "forward" in vars(module):
        return
    if isinstance(module, RECURRENT):
        if own_forward(type(module)) is None:
            yield from _recurrent(path, module)
    else:
        yield from _experts(path, module)


def _recurrent(path: str, module: nn.Module) -> Iterator[Layer]:
    for name, weight in module._parameters.items():
        if weight is not None and name.startswith("weight_"):
            features, added = (weight.shape[0],), name.replace("weight", "bias", 1)
            bias = Slot(added, features) if module._parameters.get(added) is not None else None
            slot = Slot(name, tuple(weight.shape))
            yield Layer(path, LINEAR, type(module).__name__, features, -1, slot, bias, name, found=True, whole=True)


def _experts(path: str, module: nn.Module) -> Iterator[Layer]:
    """Give both weights of experts (expert, output, input) or (expert, input, output), where their shapes say which."""
    up, down = (module._parameters.get(name) for name in (_UP, _DOWN))
    if up is None or down is None or up.dim() != 3 or down.dim() != 3 or len(up) != len(down):
        return
    experts, *inner = up.shape
    for out_axis, wide, size in ((1, *inner), (2, *reversed(inner))):
        outer = down.shape[out_axis], down.shape[3 - out_axis]
        if outer == (size, wide // 2):
            for name, weight, out in ((_UP, up, wide), (_DOWN, down, size)):
                features, added = (experts, out), f"{name}_bias"
                own = module._parameters.get(added)
                bias = Slot(added, features) if own is not None and tuple(own.shape) == features else None
                slot = Slot(name, tuple(weight.shape))
                yield Layer(
                    path, EXPERTS, type(module).__name__, features, -1, slot, bias, name,
                    out_axis=out_axis, found=True, whole=True,
                )  # fmt: skip
            return
