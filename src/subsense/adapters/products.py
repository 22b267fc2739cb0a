"""How layers multiply by a matrix, as low-rank methods need it: shapes of factors, their path, their product, a fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.adapters.layers.layer import Layer
from subsense.adapters.low_rank import Cut, Factors, dense_factors, shared_factors, spread_factors
from subsense.support.torch_private import Convolution as Convolved
from subsense.support.torch_private import convolve

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

Shape = tuple[int, ...]


class Gates(Protocol):
    """Say how much each batch row uses of the middle; see `subsense.adapters.base.Mix`."""

    def gates(self, like: Tensor, axis: int, rank: int, repeats: int = 1) -> Tensor:
        """Give each batch row's weights of the active rows."""
        ...


class Product(Protocol):
    """Say how layers of one kind multiply by a matrix. Factors are down (rank, ...) and up (rank, ...)."""

    def shapes(self, layer: Layer, rank: int) -> tuple[Shape, Shape]:
        """Give the shapes of down and up."""
        ...

    def path(
        self, layer: Layer, module: nn.Module, down: Tensor, up: Tensor, mix: Gates, x: Tensor, y: Tensor
    ) -> Tensor:
        """Run an input `x` through factors of several rows, (row, rank, ...); `y` is the layer's own output."""
        ...

    def difference(self, layer: Layer, down: Tensor, up: Tensor) -> Tensor:
        """Multiply the factors: the difference of the weight."""
        ...

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor) -> tuple[Tensor, int]:
        """Give what the output is linear in, (..., group * feature, ...), and in how many groups."""
        ...

    def is_own(self, layer: Layer) -> bool:
        """Say whether that basis is the layer's own output."""
        ...

    def cut(self, layer: Layer) -> Cut:
        """Give what finds the best factors on that basis."""
        ...

    def factors(self, layer: Layer, weight: Tensor, found: Factors) -> tuple[Tensor, Tensor]:
        """Make down and up, each (rank, numbers), of factors on that basis."""
        ...


@dataclass(frozen=True)
class Multiplication:
    """Be a linear layer's: y = W x, or x W where the weight's outputs are its last axis."""

    def shapes(self, layer: Layer, rank: int) -> tuple[Shape, Shape]:
        """Give (rank, input), (rank, output)."""
        return (rank, layer.weight.shape[1 - layer.out_axis]), (rank, layer.channels)

    def path(
        self, layer: Layer, module: nn.Module, down: Tensor, up: Tensor, mix: Gates, x: Tensor, y: Tensor
    ) -> Tensor:
        """Multiply by down, weigh, multiply by up, where the features are."""
        last = layer.axis in (-1, x.dim() - 1)
        middle = F.linear(x if last else x.movedim(layer.axis, -1), down.flatten(0, 1))
        gated = middle * mix.gates(middle, -1, down.shape[1])
        path = F.linear(gated, up.flatten(0, 1).T)
        return path if last else path.movedim(-1, layer.axis)

    def difference(self, layer: Layer, down: Tensor, up: Tensor) -> Tensor:
        """Multiply the factors."""
        product = up.T @ down
        return product if layer.out_axis == 0 else product.T

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor) -> tuple[Tensor, int]:
        """Give the layer's own output."""
        return own, 1

    def is_own(self, layer: Layer) -> bool:
        """Say so."""
        return True

    def cut(self, layer: Layer) -> Cut:
        """Cut a map of the layer's own outputs."""
        return dense_factors

    def factors(self, layer: Layer, weight: Tensor, found: Factors) -> tuple[Tensor, Tensor]:
        """Put the weight before the inner factor."""
        return found.inner[0].T @ weight.movedim(layer.out_axis, 0).flatten(1), _outputs(found)


@dataclass(frozen=True)
class Convolution:
    """Be a convolution's: down convolves, with the layer's own geometry, and up mixes channels."""

    def shapes(self, layer: Layer, rank: int) -> tuple[Shape, Shape]:
        """Give (rank, input of a group, *kernel), (rank, output)."""
        return (rank, *layer.weight.shape[1:]), (rank, layer.channels)

    def path(
        self, layer: Layer, module: nn.Module, down: Tensor, up: Tensor, mix: Gates, x: Tensor, y: Tensor
    ) -> Tensor:
        """Convolve with down in every group, weigh, mix with up."""
        stacked = down.flatten(0, 1)
        middle = convolve(module, x, stacked.repeat(layer.groups, *[1] * (stacked.dim() - 1)))
        gated = middle * mix.gates(middle, layer.axis, down.shape[1], layer.groups)
        return _pointwise(gated, up.flatten(0, 1).T, layer)

    def difference(self, layer: Layer, down: Tensor, up: Tensor) -> Tensor:
        """Multiply the factors."""
        product: Tensor = (up.T @ down.flatten(1)).unflatten(1, down.shape[1:])
        return product

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor) -> tuple[Tensor, int]:
        """Give the layer's own output; with groups, what each position sees of each group."""
        if self.is_own(layer):
            return own, 1
        size = layer.weight.shape[1:]
        features = math.prod(size)
        every = torch.eye(features, dtype=x.dtype, device=x.device).view(features, *size)
        return convolve(module, x, every.repeat(layer.groups, *[1] * len(size))), layer.groups

    def is_own(self, layer: Layer) -> bool:
        """Say whether there is one group."""
        return layer.groups == 1

    def cut(self, layer: Layer) -> Cut:
        """Cut a map of the layer's own outputs; with groups, let them share the inner factor."""
        return dense_factors if self.is_own(layer) else shared_factors

    def factors(self, layer: Layer, weight: Tensor, found: Factors) -> tuple[Tensor, Tensor]:
        """Put the weight before the inner factor, where there is one group."""
        inner = found.inner[0].T
        return inner @ weight.flatten(1) if self.is_own(layer) else inner, _outputs(found)


@dataclass(frozen=True)
class Transposed:
    """Be a transposed convolution's: down mixes channels, and up convolves, with the layer's own geometry."""

    def shapes(self, layer: Layer, rank: int) -> tuple[Shape, Shape]:
        """Give (rank, input), (rank, output, *kernel)."""
        return (rank, layer.weight.shape[0]), (rank, layer.channels, *layer.weight.shape[2:])

    def path(
        self, layer: Layer, module: nn.Module, down: Tensor, up: Tensor, mix: Gates, x: Tensor, y: Tensor
    ) -> Tensor:
        """Mix with down in every group, weigh, spread with up."""
        grouped = down.unflatten(2, (layer.groups, -1)).permute(2, 0, 1, 3).flatten(0, 2)
        middle = _pointwise(x, grouped, layer)
        gated = middle * mix.gates(middle, layer.axis, down.shape[1], layer.groups)
        return _spread(layer, module, gated, up.unflatten(2, (layer.groups, -1)).movedim(2, 0).flatten(0, 2), x, y)

    def difference(self, layer: Layer, down: Tensor, up: Tensor) -> Tensor:
        """Multiply the factors in every group."""
        inputs = down.unflatten(1, (layer.groups, -1))
        outputs = up.unflatten(1, (layer.groups, -1))
        return torch.einsum("rgi,rgo...->gio...", inputs, outputs).flatten(0, 1)

    def basis(self, layer: Layer, module: nn.Module, x: Tensor, own: Tensor) -> tuple[Tensor, int]:
        """Give what each output position gets by each place of the kernel."""
        inputs, kernel = layer.weight.shape[0] // layer.groups, layer.weight.shape[2:]
        features = inputs * math.prod(kernel)
        every = torch.eye(features, dtype=x.dtype, device=x.device).view(features, inputs, *kernel).transpose(0, 1)
        return _spread(layer, module, x, every.repeat(layer.groups, 1, *[1] * len(kernel)), x, own), layer.groups

    def is_own(self, layer: Layer) -> bool:
        """Say that it isn't."""
        return False

    def cut(self, layer: Layer) -> Cut:
        """Let all places of the kernel share the inner factor of their group."""
        kernel = math.prod(layer.weight.shape[2:])
        return lambda left, right, penalty, rank: spread_factors(left, right, penalty, rank, kernel)

    def factors(self, layer: Layer, weight: Tensor, found: Factors) -> tuple[Tensor, Tensor]:
        """Bring the places of the kernel behind the outputs."""
        rank = found.inner.shape[-1]
        places = found.outer.unflatten(1, (rank, -1)).permute(1, 0, 3, 2)
        return found.inner.permute(2, 0, 1).flatten(1), places.flatten(1)


class Experts(Multiplication):
    """Be that of linear layers packed into one weight: (expert, output, input), or the last two turned round.

    They are adapted as a whole, so there is no path beside them.
    """

    def shapes(self, layer: Layer, rank: int) -> tuple[Shape, Shape]:
        """Give (rank, expert, input), (rank, expert, output)."""
        experts, output = layer.features
        return (rank, experts, layer.weight.shape[3 - layer.out_axis]), (rank, experts, output)

    def difference(self, layer: Layer, down: Tensor, up: Tensor) -> Tensor:
        """Multiply the factors of each expert."""
        return torch.einsum("rei,reo->eoi" if layer.out_axis == 1 else "rei,reo->eio", down, up)


def _outputs(found: Factors) -> Tensor:
    return found.outer.transpose(0, 1).flatten(1)


def _pointwise(x: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    spatial = len(layer.weight.shape) - 2
    return _CONV[spatial](x, weight.reshape(*weight.shape, *[1] * spatial), groups=layer.groups)


def _spread(layer: Layer, module: nn.Module, values: Tensor, weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Convolve transposed as the layer does, where it makes `y` of `x`."""
    assert isinstance(module, Convolved)
    where = module.stride, module.padding, _output_padding(module, x, y), layer.groups, module.dilation
    return _TRANSPOSED[len(module.kernel_size)](values, weight, None, *where)


def _output_padding(module: Any, x: Tensor, y: Tensor) -> list[int]:
    spatial = len(module.kernel_size)
    sizes = zip(x.shape[-spatial:], y.shape[-spatial:], strict=True)
    places = zip(module.stride, module.padding, module.dilation, module.kernel_size, strict=True)
    return [
        found - ((size - 1) * stride - 2 * int(padding) + dilation * (kernel - 1) + 1)
        for (size, found), (stride, padding, dilation, kernel) in zip(sizes, places, strict=True)
    ]
