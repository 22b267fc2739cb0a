"""Run torch's normalisation layers with another affine pair than their own.

An adapter's pair and the layer's own are one pair, so that a layer run with it costs and keeps what it always did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subsense.adapters.base import Sets
from subsense.adapters.layers.layer import Layer, Run


@dataclass(frozen=True)
class Normalising:
    """Run a normalisation layer with its adapters in its pair.

    Args:
        layer, module: the layer; nothing of it is changed.
        run: how it is computed.

    >>> from subsense.adapters.layers.describe import describe
    >>> module, layer = next(describe(nn.LayerNorm(2)))
    >>> normalising = Normalising(layer, module, layer.run)
    >>> pair = torch.tensor([2.0, 2.0]), torch.ones(2)
    >>> normalising.run.forward(module, torch.tensor([[-1.0, 1.0]]), *pair).round()
    tensor([[-1.,  3.]])
    """

    layer: Layer
    module: nn.Module
    run: Run
    keeps_output: ClassVar[bool] = False

    def pays(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Say whether it is right for an input: in another precision the pair would be rounded."""
        return x.dtype == dtype

    def __call__(self, x: Tensor, sets: Sets, steady: bool) -> Tensor:
        """Normalise."""
        own, layer = self.layer.weight.read(self.module), self.layer
        weight = next(iter(sets[0][1].values())).new_ones(layer.features) if own is None else own
        bias = layer.bias.read(self.module) if layer.bias else None
        for adapter, one in sets:
            weight, bias = adapter.fold(layer, one, weight, bias)
        return self.run.forward(self.module, x, weight, bias)
