"""Run torch's linear layers and convolutions with every output channel scaled and shifted.

``gamma (W x + b) + beta`` is the layer with ``gamma W`` and ``gamma b + beta``. Where the weight has fewer numbers than
the output, scaling it is cheaper, and in the backward pass nothing is multiplied by gamma either. Autograd alone would
get gamma's gradient from the weight's, a matrix product as large as the layer's; here it comes from the output. And
the input, which torch's own convolution keeps for a weight's gradient, is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from subsense.adapters.affine import SMALLEST
from subsense.adapters.autograd import apply
from subsense.adapters.base import Pair, Sets
from subsense.adapters.channels import then
from subsense.adapters.layers.layer import Layer, Run
from subsense.adapters.sums import sums

LARGE = 2**13
"""Numbers of an output from which it is cheaper; below, what is written here in Python counts for more."""


@dataclass(frozen=True)
class Scaling:
    """Run one layer with its adapters in its weight and bias.

    Args:
        layer, module: the layer; nothing of it is changed.
        run: how it is computed.

    >>> from subsense.adapters.layers.describe import describe
    >>> module, layer = next(describe(torch.nn.Linear(2, 1, bias=False).requires_grad_(False)))
    >>> weights = module.weight.fill_(1.0)
    >>> Scaling(layer, module, layer.run).compute(torch.ones(1, 2), torch.tensor([2.0]), torch.tensor([0.25]))
    tensor([[4.2500]])
    """

    layer: Layer
    module: Any
    run: Run
    keeps_output: ClassVar[bool] = True

    def pays(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Say whether it is right for an input, and cheaper than scaling the output."""
        weight = self._weight
        is_batched = x.dim() == self.run.axes if self.run.axes else x.dim() > 0
        if x.dtype != weight.dtype or x.dtype != dtype or not is_batched or torch.is_autocast_enabled(x.device.type):
            return False
        return LARGE <= self._made(x) >= weight.numel()

    def __call__(self, x: Tensor, sets: Sets, steady: bool) -> Tensor:
        """Give the adapted output, with the same bits whatever is known of it."""
        gamma, beta = self._pair(sets)
        if gamma is None or not torch.is_grad_enabled() or not gamma.requires_grad:
            return self.compute(x, gamma, beta)
        again = torch.linalg.vector_norm(gamma.detach(), -inf).item() <= SMALLEST
        output: Tensor = apply(_Scaled, x, gamma, beta, self, again)
        return output if again or steady else output.clone()

    def compute(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """Compute gamma (W x + b) + beta in plain operations; None leaves that half out."""
        _, bias = then((None, self.module._parameters["bias"]), (gamma, beta))
        return self.run.forward(self.module, x, self.scaled(gamma), bias)

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
        return x.numel() // max(1, x.shape[self.layer.axis]) // self.run.stride * self.layer.channels


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
        grad = grad if scaling.run.axes else grad.contiguous()
        d_x = None
        if ctx.needs_input_grad[0]:
            assert scaling.run.back is not None
            d_x = scaling.run.back(scaling.module, grad, scaling.scaled(gamma), ctx.form)
        shape = [1] * grad.dim()
        shape[scaling.layer.axis] = len(gamma)
        y = scaling.compute(kept, None, None) if ctx.again else kept
        total, d_beta = (one.view_as(gamma) for one in sums(grad, y, shape))
        if not ctx.again:
            total = (total if beta is None else total - beta * d_beta) / gamma
        return d_x, total, None if beta is None else d_beta, None, None
