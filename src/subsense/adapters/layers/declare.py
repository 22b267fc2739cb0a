"""Layer classes of the user's own, declared so that adapters can serve them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from torch import Tensor, nn

from subsense.adapters.layers.kinds import KINDS, LINEAR
from subsense.adapters.layers.layer import Layer, Slot
from subsense.errors import UnsupportedLayer


@dataclass(frozen=True)
class LayerClass:
    """Declare a layer class of the user's own, so that adapters can serve it.

    The declaration is checked: a copy of each such layer is run on a few random numbers, and one whose output doesn't
    follow weight and bias as its kind says (an activation inside, another axis) is refused. A weight that is offset, as
    where ``1 + weight`` multiplies, is found out, and served.

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
        from subsense.adapters.layers.probe import probe  # only where a class is declared

        weight = module._parameters.get(self.weight)
        fault = self._fault(module, weight)
        if weight is None or fault:
            yield UnsupportedLayer(f"{path} ({type(module).__name__}): declared with {fault}")
            return
        features = (weight.shape[self.out_axis],)
        bias = Slot(self.bias, features) if self.bias else None
        slot = Slot(self.weight, tuple(weight.shape))
        kind = KINDS[self.kind]
        name, out_axis = type(module).__name__, self.out_axis
        yield probe(Layer(path, kind, name, features, self.axis, slot, bias, out_axis=out_axis, declared=True), module)

    def _fault(self, module: nn.Module, weight: Tensor | None) -> str | None:
        has = f"it has {list(module._parameters)}"
        if weight is None:
            return f"weight {self.weight!r}, but has no such parameter; {has}"
        declared = [name for name, kind in KINDS.items() if kind.weight_axes]
        if self.kind not in declared:
            return f"kind {self.kind!r}; expected one of {', '.join(declared)}"
        if weight.dim() != KINDS[self.kind].weight_axes:
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
    parts: Sequence[str] = ("query", "key", "value")

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
            yield Layer(path, LINEAR, name, shape[:1], -1, weights[part], biases.get(part), part, declared=True)

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
