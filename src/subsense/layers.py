"""What an adapter needs to know of a layer of the network: its kind, its channels, where its weight and bias are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from subsense.errors import PlanError, UnsupportedLayer
from subsense.machinery import foreign, strange_tensor

Kind = Literal["linear", "conv", "transposed", "norm"]
ATTENTION_PARTS = ("query", "key", "value", "output")


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
        return layer.get_submodule(self.module)

    def parameter(self, layer: nn.Module) -> nn.Parameter | None:
        """Give the whole parameter, None where the layer has none."""
        parameter: nn.Parameter | None = self.owner(layer)._parameters.get(self.name)
        return parameter

    def read(self, layer: nn.Module) -> Tensor | None:
        """Give the part of the parameter that is pointed at, None where the layer has none."""
        parameter = self.parameter(layer)
        if parameter is None or self.rows is None:
            return parameter
        return parameter[slice(*self.rows)]


@dataclass(frozen=True)
class Layer:
    """Describe one layer as adapters see it.

    Attributes:
        path: module path in the network.
        part: for attention, which of its projections; otherwise empty.
        kind: linear, conv, transposed (convolution) or norm.
        class_name: the module's class.
        features: shape of one scale or shift; (channels,), but the normalised shape for `LayerNorm`.
        axis: where the features begin in the output; negative counts from the end.
        weight, bias: where they are; a bias of None means that the layer's class has no place for one.
        groups: convolution groups.
        out_axis: the weight's axis of output channels.
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


@dataclass(frozen=True)
class LayerClass:
    """Declare a layer class of the user's own, so that adapters can serve it.

    Args:
        cls: the class; its forward takes one tensor and returns one.
        kind: ``"norm"`` or ``"linear"``.
        axis: where the channels are in the output: 1 for channel-first, -1 for last.
        weight: name of the parameter that multiplies: (channels,) for a norm, a matrix for a linear layer.
        bias: name of the parameter that is added, (channels,); None where the class has none.
        out_axis: for a linear layer, the weight's axis of output channels.

    >>> class ChannelNorm(nn.Module): ...
    >>> LayerClass(ChannelNorm, kind="norm", axis=1).bias
    'bias'
    """

    cls: type[nn.Module]
    kind: Literal["norm", "linear"]
    axis: int
    weight: str = "weight"
    bias: str | None = "bias"
    out_axis: int = 0

    def describe(self, path: str, module: nn.Module) -> Iterator[Layer | UnsupportedLayer]:
        """Describe one module of the class, or say what is wrong with the declaration."""
        weight = module._parameters.get(self.weight)
        fault = self._fault(module, weight)
        if weight is None or fault:
            yield UnsupportedLayer(f"{path} ({type(module).__name__}): declared with {fault}")
            return
        features = (weight.shape[self.out_axis],)
        bias = Slot(self.bias, features) if self.bias else None
        slot = Slot(self.weight, tuple(weight.shape))
        yield Layer(path, self.kind, type(module).__name__, features, self.axis, slot, bias, out_axis=self.out_axis)

    def _fault(self, module: nn.Module, weight: Tensor | None) -> str | None:
        has = f"it has {list(module._parameters)}"
        if weight is None:
            return f"weight {self.weight!r}, but has no such parameter; {has}"
        if weight.dim() != {"norm": 1, "linear": 2}.get(self.kind):
            return f"kind {self.kind!r}, but its weight {self.weight!r} has shape {tuple(weight.shape)}"
        if self.bias and not hasattr(module, self.bias):
            return f"bias {self.bias!r}, but has no such parameter; {has}; bias=None where the class adds none"
        return None


@dataclass(frozen=True)
class AttentionClass:
    """Declare an attention class of the user's own that multiplies by raw parameters, as fairseq's does.

    Such projections are no layers, so no hook sees them. Each becomes a site of its own, named after its part. While
    adapters act, the class's own forward finds stand-ins where it reads the parameters, and these know which part a
    slice of rows is; what forward must do is ``F.linear(x, weight[rows], bias[rows])``, any number of whole parts at a
    time. Anything else it does with them raises `UnsupportedLayer` at the first call. Layers inside the class, such as
    a `Linear` ``out_proj``, are sites as everywhere; further raw parameters (``bias_k``) are listed as out of reach.

    Args:
        cls: the class.
        weight: name of the parameter whose rows are the projections, one after the other, equally many for each; or
            part -> name where each has its own (output, input).
        bias: the same of what is added; None where the class adds none.
        parts: the projections, in the order of the packed rows.

    >>> class Attention(nn.Module): ...
    >>> AttentionClass(Attention).weight
    'in_proj_weight'
    """

    cls: type[nn.Module]
    weight: str | Mapping[str, str] = "in_proj_weight"
    bias: str | Mapping[str, str] | None = "in_proj_bias"
    parts: Sequence[str] = ATTENTION_PARTS[:3]

    def describe(self, path: str, module: nn.Module) -> Iterator[Layer | UnsupportedLayer]:
        """Describe the projections of one module of the class, or say what is wrong with the declaration."""
        name = type(module).__name__
        fault = self._fault(module)
        if fault:
            yield UnsupportedLayer(f"{path or 'the network'} ({name}): {fault}")
            return
        shapes = self._shapes(module)
        weights = self._slots(self.weight, shapes)
        biases = self._slots(self.bias, {part: shape[:1] for part, shape in shapes.items()}) if self.bias else {}
        for part, shape in shapes.items():
            yield Layer(path, "linear", name, shape[:1], -1, weights[part], biases.get(part), part)

    def _slots(self, name: str | Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Slot]:
        if not isinstance(name, str):
            return {part: Slot(name[part], shape) for part, shape in shapes.items()}
        ends = list(accumulate(shape[0] for shape in shapes.values()))
        return {
            part: Slot(name, shape, rows=(end - shape[0], end), length=ends[-1])
            for (part, shape), end in zip(shapes.items(), ends, strict=True)
        }

    def _shapes(self, module: nn.Module) -> dict[str, tuple[int, ...]]:
        if not isinstance(self.weight, str):
            return {part: tuple(module.get_parameter(self.weight[part]).shape) for part in self.parts}
        rows, *inputs = module.get_parameter(self.weight).shape
        return dict.fromkeys(self.parts, (rows // len(self.parts), *inputs))

    def _fault(self, module: nn.Module) -> str | None:
        if "forward" in vars(module):
            return "its forward was replaced on the instance; remove that, or exclude the layer"
        if not self.parts or set(self.parts) & set(module._modules):
            return f"declared with parts {list(self.parts)}; name at least one, and none as a layer inside it"
        return self._fault_of_weights(module) or self._fault_of_biases(module)

    def _fault_of_weights(self, module: nn.Module) -> str | None:
        for name in self._names(self.weight):
            weight = module._parameters.get(name)
            if weight is None:
                return f"declared with weight {name!r}, but has no such parameter; it has {list(module._parameters)}"
            if weight.dim() != 2:
                return f"declared with weight {name!r}, but that is no matrix: {tuple(weight.shape)}"
            if isinstance(self.weight, str) and len(weight) % len(self.parts):
                return f"declared with weight {name!r} for {list(self.parts)}, but it has {len(weight)} rows"
        return None

    def _fault_of_biases(self, module: nn.Module) -> str | None:
        if self.bias is None:
            return None
        for name in self._names(self.bias):
            if not hasattr(module, name):
                return (
                    f"declared with bias {name!r}, but has no such parameter; it has {list(module._parameters)}; "
                    "bias=None where the class adds none"
                )
        slots = self._slots(self.bias, {part: shape[:1] for part, shape in self._shapes(module).items()})
        for slot in slots.values():
            bias, expected = slot.parameter(module), slot.length or slot.shape[0]
            if bias is not None and tuple(bias.shape) != (expected,):
                return f"declared with bias {slot.name!r}; expected shape ({expected},), but found {tuple(bias.shape)}"
        return None

    def _names(self, name: str | Mapping[str, str]) -> list[str]:
        return [name] if isinstance(name, str) else [name.get(part, f"(of {part})") for part in self.parts]


Declaration = LayerClass | AttentionClass
DECLARATIONS: Mapping[str, type[Declaration]] = {"LayerClass": LayerClass, "AttentionClass": AttentionClass}
"""Ways to declare a layer class of the user's own, by the name that recipes use."""


def _linear(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, nn.Linear)
    features = (module.out_features,)
    weight = Slot("weight", (module.out_features, module.in_features))
    yield Layer(path, "linear", type(module).__name__, features, -1, weight, Slot("bias", features))


def _conv(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, _ConvNd)
    transposed = isinstance(module, _ConvTransposeNd)
    features, axis = (module.out_channels,), -1 - len(module.kernel_size)
    weight = Slot("weight", tuple(module.weight.shape))
    yield Layer(
        path,
        "transposed" if transposed else "conv",
        type(module).__name__,
        features,
        axis,
        weight,
        Slot("bias", features),
        groups=module.groups,
        out_axis=int(transposed),
    )


def _channel_norm(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, (nn.GroupNorm, _NormBase))
    features = (module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features,)
    axis = -module._get_no_batch_dim() if isinstance(module, _InstanceNorm) else 1
    slots = Slot("weight", features), Slot("bias", features)
    yield Layer(path, "norm", type(module).__name__, features, axis, *slots)


def _trailing_norm(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    features = tuple(module.normalized_shape)
    bias = Slot("bias", features) if isinstance(module, nn.LayerNorm) else None
    yield Layer(path, "norm", type(module).__name__, features, -len(features), Slot("weight", features), bias)


def _attention(path: str, module: nn.Module) -> Iterator[Layer]:
    assert isinstance(module, nn.MultiheadAttention)
    size, name = module.embed_dim, type(module).__name__
    inputs = {"query": size, "key": module.kdim, "value": module.vdim}
    for index, (part, width) in enumerate(inputs.items()):
        rows = (index * size, (index + 1) * size)
        packed = module._qkv_same_embed_dim
        weight = (
            Slot("in_proj_weight", (size, width), rows=rows, length=3 * size)
            if packed
            else Slot(f"{part[0]}_proj_weight", (size, width))
        )
        bias = Slot("in_proj_bias", (size,), rows=rows, length=3 * size)
        yield Layer(path, "linear", name, (size,), -1, weight, bias, part)
    weight, bias = Slot("weight", (size, size), "out_proj"), Slot("bias", (size,), "out_proj")
    yield Layer(path, "linear", name, (size,), -1, weight, bias, "output")


Describe = Callable[[str, nn.Module], Iterator[Layer | UnsupportedLayer]]
_KNOWN: dict[type[nn.Module], Describe] = {
    nn.Linear: _linear,
    _ConvNd: _conv,
    _BatchNorm: _channel_norm,
    _InstanceNorm: _channel_norm,
    nn.GroupNorm: _channel_norm,
    nn.LayerNorm: _trailing_norm,
    nn.RMSNorm: _trailing_norm,
    nn.MultiheadAttention: _attention,
}


def describe(
    network: nn.Module, declared: Sequence[Declaration] = ()
) -> Iterator[tuple[nn.Module, Layer | UnsupportedLayer]]:
    """Walk a network and describe each layer that adapters can serve, in registration order.

    A module that looks like such a layer but can't be served right comes as the error that would be raised for it.

    Args:
        network: the network; nothing of it is changed.
        declared: the user's own layer classes.
    """
    _check_sizes(network)
    _check_declared(network, declared)
    own = {declaration.cls: declaration.describe for declaration in declared}
    closed: list[str] = []
    for path, module in network.named_modules():
        if any(path.startswith(f"{parent}." if parent else "") for parent in closed):
            continue
        if (isinstance(module, nn.MultiheadAttention) or foreign(module)) and type(module) not in own:
            closed.append(path)
        for layer in _describe(path, module, own):
            yield module, layer


def _describe(
    path: str, module: nn.Module, own: Mapping[type[nn.Module], Describe]
) -> Iterable[Layer | UnsupportedLayer]:
    if type(module) in own:
        return own[type(module)](path, module)
    base = next((base for base in _KNOWN if isinstance(module, base)), None)
    fault = foreign(module) or (_fault(module) if base else None)
    if fault:
        return (UnsupportedLayer(f"{path or 'the network'} ({type(module).__name__}): {fault}"),)
    return _KNOWN[base](path, module) if base else ()


def _fault(module: nn.Module) -> str | None:
    own = _own_forward(type(module))
    if own is not None:
        return (
            f"class {own.__name__} has a forward of its own, so where its channels are isn't known; declare it: "
            f"layers=[LayerClass({own.__name__}, kind=..., axis=...)], or exclude it"
        )
    if "forward" in vars(module):
        return "its forward was replaced on the instance; remove that, or exclude the layer"
    return _computed_weight(module) or next(filter(None, map(strange_tensor, _owners(module))), None)


def _own_forward(cls: type) -> type | None:
    """Give the class which replaces a method that computes the output by one that isn't torch's."""
    for name in ("forward", "_forward_impl", "_conv_forward"):
        definer = next((base for base in cls.__mro__ if name in vars(base)), None)
        if definer is not None and not definer.__module__.startswith("torch."):
            return definer
    return None


def _computed_weight(module: nn.Module) -> str | None:
    names = [
        name
        for owner in _owners(module)
        for name in ("weight", "bias", "in_proj_weight", "in_proj_bias")
        if hasattr(owner, name) and name not in owner._parameters
    ]
    if names:
        return (
            f"its {names[0]} is computed (weight_norm, spectral_norm or another parametrization); make it plain with "
            "torch.nn.utils.parametrize.remove_parametrizations or remove_weight_norm, or exclude the layer"
        )
    return None


def _owners(module: nn.Module) -> list[nn.Module]:
    """Give the modules which hold a layer's parameters."""
    return [module, module.out_proj] if isinstance(module, nn.MultiheadAttention) else [module]


def _check_sizes(network: nn.Module) -> None:
    for path, module in network.named_modules():
        if any(map(is_lazy, (*module._parameters.values(), *module._buffers.values()))):
            raise UnsupportedLayer(
                f"{path or 'the network'} ({type(module).__name__}): its size isn't known yet; run the network once "
                "before adapting it"
            )


def _check_declared(network: nn.Module, declared: Sequence[Declaration]) -> None:
    classes = {type(module) for module in network.modules()}
    for declaration in declared:
        if not isinstance(declaration, Declaration):
            raise PlanError(f"layers: expected LayerClass(...) or AttentionClass(...), but found {declaration!r}")
        if declaration.cls not in classes:
            raise PlanError(f"layers: the network has no layer of class {declaration.cls.__name__}")
        if sum(other.cls is declaration.cls for other in declared) > 1:
            raise PlanError(f"layers: {declaration.cls.__name__} is declared twice")
