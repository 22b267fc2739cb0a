"""Run torch's normalisation layers with another affine pair than their own.

An adapter's pair and the layer's own are one pair, so that a layer run with it costs and keeps what it always did.
`nn.GroupNorm` isn't here: its kernel's gradient of the pair subtracts sums that nearly cancel (1e-3 off in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

Normalise = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(input, weight, bias) -> output."""


def with_pair(module: nn.Module) -> Normalise | None:
    """Give a function which runs a normalisation layer with any affine pair; None for a layer that isn't known.

    >>> import torch
    >>> with_pair(nn.LayerNorm(2))(torch.tensor([[-1.0, 1.0]]), torch.tensor([2.0, 2.0]), torch.ones(2)).round()
    tensor([[-1.,  3.]])
    """
    make = _KNOWN.get(type(module).forward)
    return None if make is None else make(module)


def _layer_norm(module: Any) -> Normalise:
    return lambda x, weight, bias: F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def _rms_norm(module: Any) -> Normalise:
    return lambda x, weight, bias: F.rms_norm(x, module.normalized_shape, weight, module.eps)


def _batch_norm(module: Any) -> Normalise:
    def normalise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        uses_batch = module.running_mean is None
        return F.batch_norm(x, module.running_mean, module.running_var, weight, bias, uses_batch, 0.0, module.eps)

    return normalise


_KNOWN: Mapping[Any, Callable[[Any], Normalise]] = {
    nn.LayerNorm.forward: _layer_norm,
    nn.RMSNorm.forward: _rms_norm,
    _BatchNorm.forward: _batch_norm,
}
