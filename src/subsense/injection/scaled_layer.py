"""Run torch's linear layers and convolutions with every output channel scaled and shifted.

``gamma (W x + b) + beta`` is the layer with ``gamma W`` and ``gamma b + beta``. Where the weight has fewer numbers than
the output, scaling it is cheaper, and in the backward pass nothing is multiplied by gamma either. Autograd alone would
get gamma's gradient from the weight's, a matrix product as large as the layer's; here it comes from the output. And
the input, which torch's own convolution keeps for a weight's gradient, is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf, prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.adapters.affine import SMALLEST, sums
from subsense.adapters.autograd import apply
from subsense.adapters.base import Pair, Sets
from subsense.adapters.channels import then
from subsense.adapters.layers.layer import Layer
from subsense.injection.saved_outputs import State

Run = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
"""(module, input, weight, bias) -> output."""
Back = Callable[[Any, Tensor, Tensor, tuple[torch.Size, tuple[int, ...]]], Tensor]
"""(module, gradient of the output, weight, shape and strides of the input) -> gradient of the input."""
LARGE = 2**13
"""Numbers of an output from which it is cheaper; below, what is written here in Python counts for more."""
_convolution_backward = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Scaling:
    """Run one layer with its adapters in its weight and bias.

    Args:
        layer, module: the layer; nothing of it is changed.
        run, back: compute it, and the gradient of its input.
        stride: how many places of the input there are for one of the output.
    """

    layer: Layer
    module: Any
    run: Run
    back: Back
    stride: int = 1
    keeps_output: ClassVar[bool] = True

    def pays(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Say whether it is right for an input, and cheaper than scaling the output."""
        weight = self._weight
        is_batched = x.dim() > 0 if self.layer.kind == "linear" else x.dim() == weight.dim()
        if x.dtype != weight.dtype or x.dtype != dtype or not is_batched or torch.is_autocast_enabled(x.device.type):
            return False
        return LARGE <= self._made(x) >= weight.numel()

    def __call__(self, x: Tensor, sets: Sets, state: State) -> Tensor:
        """Give the adapted output, with the same bits whatever is known of it."""
        gamma, beta = self._pair(sets)
        if gamma is None or not torch.is_grad_enabled() or not gamma.requires_grad:
            return self.compute(x, gamma, beta)
        again = torch.linalg.vector_norm(gamma.detach(), -inf).item() <= SMALLEST
        output: Tensor = apply(_Scaled, x, gamma, beta, self, again)
        return output if again or state in ("steady", "lonely") else output.clone()

    def compute(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """Compute gamma (W x + b) + beta in plain operations; None leaves that half out."""
        _, bias = then((None, self.module._parameters["bias"]), (gamma, beta))
        return self.run(self.module, x, self.scaled(gamma), bias)

    def scaled(self, gamma: Tensor | None) -> Tensor:
        """Give the scaled weight."""
        return self._weight if gamma is None else self._weight * gamma.view(self.form)

    @cached_property
    def form(self) -> tuple[int, ...]:
        """Give the shape in which a number for each channel multiplies the weight."""
        return (-1, *[1] * (self._weight.dim() - 1))

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self.module._parameters["weight"]  # past `Module.__getattr__`, since it is asked often
        return weight

    def _pair(self, sets: Sets) -> Pair:
        """Give what the adapters together make of the output."""
        pair: Pair = None, None
        for adapter, one in sets:
            found = adapter.pair(self.layer, one)
            assert found is not None  # see `Site.by_channel`
            pair = then(pair, found)
        return pair

    def _made(self, x: Tensor) -> int:
        """Count the numbers of the output, but for what padding adds or takes."""
        inputs = x.shape[-1] if self.layer.kind == "linear" else x.shape[1]
        return x.numel() // max(1, inputs) // self.stride * self.layer.channels


def scaling_of(layer: Layer, module: nn.Module) -> Scaling | None:
    """Give what runs a layer scaled and shifted; None for one that isn't known.

    >>> from subsense.adapters.layers.describe import describe
    >>> module, layer = next(describe(nn.Linear(2, 1, bias=False).requires_grad_(False)))
    >>> scaling = scaling_of(layer, module)
    >>> weights = module.weight.fill_(1.0)
    >>> scaling.compute(torch.ones(1, 2), gamma=torch.tensor([2.0]), beta=torch.tensor([0.25]))
    tensor([[4.2500]])
    """
    make = _KNOWN.get(type(module).forward)
    return make(layer, module) if make else None


def _linear(layer: Layer, module: nn.Module) -> Scaling:
    return Scaling(layer, module, _multiply, _multiply_back)


def _multiply(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _multiply_back(module: Any, grad: Tensor, weight: Tensor, form: Any) -> Tensor:
    return grad @ weight


def _convolution(convolve: Callable[..., Tensor], layer: Layer, module: Any) -> Scaling | None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    return Scaling(layer, module, partial(_convolve, convolve), _convolve_back, prod(module.stride))


def _convolve(convolve: Callable[..., Tensor], module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return convolve(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)


def _convolve_back(module: Any, grad: Tensor, weight: Tensor, form: tuple[torch.Size, tuple[int, ...]]) -> Tensor:
    like = grad.new_empty_strided(*form)  # of the input no more than its form is looked at
    where = module.stride, module.padding, module.dilation, False, [0] * len(module.stride), module.groups
    found: tuple[Tensor, None, None] = _convolution_backward(grad, like, weight, None, *where, [True, False, False])
    return found[0]


_KNOWN: Mapping[Any, Callable[[Layer, nn.Module], Scaling | None]] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: partial(_convolution, F.conv1d),
    nn.Conv2d.forward: partial(_convolution, F.conv2d),
    nn.Conv3d.forward: partial(_convolution, F.conv3d),
}


class _Scaled(torch.autograd.Function):
    """Keep the output, d gamma = (sum dy out - beta sum dy) / gamma, or the input, and compute the layer once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor | None, scaling: Scaling, again: bool) -> Tensor:
        output = scaling.compute(x, gamma, beta)
        ctx.save_for_backward(x if again else output, gamma, beta)
        ctx.scaling, ctx.again, ctx.form = scaling, again, (x.shape, x.stride())
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        kept, gamma, beta = ctx.saved_tensors
        scaling: Scaling = ctx.scaling
        grad = grad if scaling.layer.kind == "conv" else grad.contiguous()
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = scaling.back(scaling.module, grad, scaling.scaled(gamma), ctx.form)
        shape = [1] * grad.dim()
        shape[scaling.layer.axis] = len(gamma)
        y = scaling.compute(kept, None, None) if ctx.again else kept
        total, d_beta = (one.view_as(gamma) for one in sums(grad, y, shape))
        if not ctx.again:
            total = (total if beta is None else total - beta * d_beta) / gamma
        return d_x, total, None if beta is None else d_beta, None, None
