"""Run torch's normalisation layers with another affine pair than their own.

An adapter's pair and the layer's own are one pair, so that a layer run with it costs and keeps what it always did.
`nn.GroupNorm` isn't here: its kernel's gradient of the pair subtracts sums that nearly cancel (1e-3 off in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from subsense.adapters.base import Sets
from subsense.adapters.layers.layer import Layer
from subsense.injection.saved_outputs import State

Run = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
"""(module, input, weight, bias) -> output."""


@dataclass(frozen=True)
class Normalising:
    """Run a normalisation layer with its adapters in its pair.

    Args:
        layer, module: the layer; nothing of it is changed.
        run: computes it with any pair.
    """

    layer: Layer
    module: nn.Module
    run: Run
    keeps_output: ClassVar[bool] = False

    def pays(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Say whether it is right for an input: in another precision the pair would be rounded."""
        return x.dtype == dtype

    def __call__(self, x: Tensor, sets: Sets, state: State) -> Tensor:
        """Normalise."""
        own, layer = self.layer.weight.read(self.module), self.layer
        weight = next(iter(sets[0][1].values())).new_ones(layer.features) if own is None else own
        bias = layer.bias.read(self.module) if layer.bias else None
        for adapter, one in sets:
            weight, bias = adapter.fold(layer, one, weight, bias)
        return self.run(self.module, x, weight, bias)


def normalising_of(layer: Layer, module: nn.Module) -> Normalising | None:
    """Give what runs a normalisation layer with any affine pair; None for one that isn't known.

    >>> from subsense.adapters.layers.describe import describe
    >>> module, layer = next(describe(nn.LayerNorm(2)))
    >>> normalising = normalising_of(layer, module)
    >>> normalising.run(module, torch.tensor([[-1.0, 1.0]]), torch.tensor([2.0, 2.0]), torch.ones(2)).round()
    tensor([[-1.,  3.]])
    """
    run = _KNOWN.get(type(module).forward)
    return None if run is None else Normalising(layer, module, run)


def _layer_norm(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def _rms_norm(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.rms_norm(x, module.normalized_shape, weight, module.eps)


def _batch_norm(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    uses_batch = module.running_mean is None
    return F.batch_norm(x, module.running_mean, module.running_var, weight, bias, uses_batch, 0.0, module.eps)


_KNOWN: Mapping[Any, Run] = {
    nn.LayerNorm.forward: _layer_norm,
    nn.RMSNorm.forward: _rms_norm,
    _BatchNorm.forward: _batch_norm,
}
