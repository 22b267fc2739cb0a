"""Torch's layers, run with another weight and bias than their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from subsense.adapters.layers.layer import Run
from subsense.support.torch_private import convolution_back

_CONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _multiply(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _multiply_back(module: Any, grad: Tensor, weight: Tensor, form: Any) -> Tensor:
    return grad @ weight


def _convolve(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    convolve = _CONV[len(module.kernel_size)]
    return convolve(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)


def _layer_norm(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def _rms_norm(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.rms_norm(x, module.normalized_shape, weight, module.eps)


def _batch_norm(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    uses_batch = module.running_mean is None
    return F.batch_norm(x, module.running_mean, module.running_var, weight, bias, uses_batch, 0.0, module.eps)


LINEAR = Run(_multiply, _multiply_back)
LAYER_NORM, RMS_NORM, BATCH_NORM = Run(_layer_norm), Run(_rms_norm), Run(_batch_norm)


def convolution(module: Any) -> Run | None:
    """Give how a convolution is run; None where its padding is no plain one.

    >>> import torch
    >>> convolution(torch.nn.Conv2d(1, 1, 3, stride=2)).stride
    4
    >>> convolution(torch.nn.Conv2d(1, 1, 3, padding="same"))
    """
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    return Run(_convolve, convolution_back, 2 + len(module.kernel_size), prod(module.stride))
