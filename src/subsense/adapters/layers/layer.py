"""What an adapter needs to know of a layer of the network: its kind, its channels, where its weight and bias are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from subsense.adapters.products import Product


@dataclass(frozen=True)
class Slot:
    """Point at a parameter of a module, or at some rows of it.

    Attributes:
        name: the parameter's name.
        module: path of the owning module below the layer's own; empty for the layer itself.
        shape: shape of what is pointed at.
        rows: start and stop along axis 0; None for all of it.
        length: size of axis 0 of the whole parameter, where that is more than the rows pointed at.
    """

    name: str
    shape: tuple[int, ...]
    module: str = ""
    rows: tuple[int, int] | None = None
    length: int = 0

    def owner(self, layer: nn.Module) -> nn.Module:
        """Give the module which holds the parameter."""
        return layer.get_submodule(self.module) if self.module else layer

    def parameter(self, layer: nn.Module) -> nn.Parameter | None:
        """Give the whole parameter, None where the layer has none."""
        parameter: nn.Parameter | None = self.owner(layer)._parameters.get(self.name)
        return parameter

    def read(self, layer: nn.Module) -> Tensor | None:
        """Give the part of the parameter that is pointed at, or of what is made in its place; None where none is."""
        owner = self.owner(layer)
        value: Tensor | None = owner._parameters.get(self.name)
        if value is None:
            value = getattr(owner, self.name, None)
        return value if value is None or self.rows is None else value[slice(*self.rows)]


@dataclass(frozen=True)
class Kind:
    """Say what layers of one kind have in common; `subsense.adapters.layers.kinds` has the table.

    Attributes:
        name: as a declaration says it.
        scale: (layer, weight, a number for each output channel (*features)) -> the weight, its outputs so multiplied.
        product: how it multiplies by a matrix, for methods that change the matrix; None where it does not.
        weight_axes: how many axes the weight of a declared layer has; None: it can't be declared.
        keeps_input: whether autograd keeps its input though the layer is frozen.
    """

    name: str
    scale: Callable[[Layer, Tensor, Tensor], Tensor]
    product: Product | None = None
    weight_axes: int | None = None
    keeps_input: bool = False


@dataclass(frozen=True)
class Run:
    """Run a layer with another weight and bias than its own.

    Attributes:
        forward: (module, input, weight, bias) -> output.
        back: (module, gradient of the output, weight, shape and strides of the input) -> gradient of the input; None
            where autograd finds it.
        axes: how many axes an input with a batch has; None: any number.
        stride: how many places of the input there are for one of the output.
    """

    forward: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
    back: Callable[[Any, Tensor, Tensor, tuple[torch.Size, tuple[int, ...]]], Tensor] | None = None
    axes: int | None = None
    stride: int = 1


@dataclass(frozen=True)
class Layer:
    """Describe one layer as adapters see it.

    Attributes:
        path: module path in the network.
        part: for attention, which of its projections; otherwise empty.
        kind: what it has in common with others: linear, conv, transposed (convolution) or norm.
        class_name: the module's class.
        features: shape of one scale or shift; (channels,), but the normalised shape for `LayerNorm`.
        axis: where the features begin in the output; negative counts from the end.
        weight, bias: where they are; a bias of None means that the layer's class has no place for one.
        groups: convolution groups.
        out_axis: the weight's axis of output channels.
        run: how it is run with another weight and bias; None where that isn't known, or isn't right.
        offset: what the layer adds to its weight before it multiplies: 1 for norms that compute with ``1 + weight``.
        declared: whether its class is none of torch's, so that it isn't known what it does with its output.
        found: whether it is known by what it computes alone: nobody has declared it.
        seen: the module inside it which is handed what the layer gives, where something follows inside (an
            activation); empty where that is its output.
        computed: further parameters, of which its weight is made.
        whole: whether it uses its weight in a way of its own, so that its adapters act in it, as a fold does.
        quantised: whether its weight is kept in codes, which nothing but a fold may read.
    """

    path: str
    kind: Kind
    class_name: str
    features: tuple[int, ...]
    axis: int
    weight: Slot
    bias: Slot | None
    part: str = ""
    groups: int = 1
    out_axis: int = 0
    run: Run | None = None
    offset: float = 0.0
    declared: bool = False
    found: bool = False
    seen: str = ""
    computed: tuple[str, ...] = ()
    whole: bool = False
    quantised: bool = False

    @cached_property
    def key(self) -> str:
        """Name the layer: its path, and the part where it is one of several."""
        return ".".join(filter(None, (self.path, self.part))) or "network"

    @property
    def channels(self) -> int:
        """Count the features."""
        count = 1
        for size in self.features:
            count *= size
        return count
