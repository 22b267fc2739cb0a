"""Adapters after projections whose raw weights a layer's own forward reads, as in fairseq's attention.

Nothing of the layer is rewritten: while its own forward runs, it finds stand-ins where it reads the parameters. A
stand-in keeps track of the rows that it holds, and `F.linear` with one gives the adapted projections of those rows.
It is no tensor, so nothing else that forward might do with it can go by unseen: it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsense.adapters.layers.layer import Layer, Slot
from subsense.errors import UnsupportedLayer
from subsense.injection.attention import Adapt

_SLICING = {torch.chunk: "chunk", torch.split: "split", torch.narrow: "narrow"}
_OPERATORS = [f"__{side}{name}__" for name in ("add", "sub", "mul", "truediv", "matmul", "pow") for side in ("", "r")]
_KEEPING = frozenset({"contiguous", "detach", "to", "type", "type_as", "float", "double", "half", "bfloat16"})


class AdaptedForward:
    """Be the forward of a layer that multiplies by raw parameters itself.

    Args:
        module: the layer; its parameters are read, never changed.
        layers: its projections.
        adapt: called as ``adapt(part, x, y)``.
    """

    def __init__(self, module: nn.Module, layers: Sequence[Layer], adapt: Adapt) -> None:
        self.module, self.layers, self.adapt = module, tuple(layers), adapt
        slots = (slot for layer in layers for slot in (layer.weight, layer.bias) if slot)
        self.names = tuple(dict.fromkeys(slot.name for slot in slots))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the class's own forward, with stand-ins for the parameters."""
        stand_ins = dict(self._stand_ins())
        vars(self.module).update(stand_ins)
        try:
            return type(self.module).forward(self.module, *args, **kwargs)
        finally:
            for name in stand_ins:
                del vars(self.module)[name]

    def _stand_ins(self) -> Iterator[tuple[str, StandIn]]:
        for name in self.names:
            parameter = self.module._parameters.get(name)
            if parameter is not None:
                yield name, StandIn(self, name, parameter, 0)

    def project(self, x: Any, weight: Any, bias: Any = None) -> Tensor:
        """Multiply by some rows of a weight, and adapt the projections that they are; arguments as for `F.linear`."""
        if not isinstance(weight, StandIn) or not isinstance(x, Tensor):
            self.refuse("uses it in F.linear otherwise than with its own weight")
        layers = [layer for layer in self.layers if weight.covers(layer.weight)]
        self._check(layers, weight, bias)
        y = F.linear(x, weight.values, None if bias is None else bias.values)
        pieces = y.split([layer.channels for layer in layers], -1) if len(layers) > 1 else [y]
        adapted = [self.adapt(layer.part, x, piece) for layer, piece in zip(layers, pieces, strict=True)]
        return adapted[0] if len(adapted) == 1 else torch.cat(adapted, -1)

    def _check(self, layers: Sequence[Layer], weight: StandIn, bias: Any) -> None:
        if sum(layer.channels for layer in layers) != len(weight):
            self.refuse(f"multiplies by rows {weight.start} to {weight.stop} of {weight.name}, "
                        f"but the parts are {_parts(self.layers)}")  # fmt: skip
        if bias is not None and not isinstance(bias, StandIn):
            self.refuse("adds something to a projection that isn't its declared bias")
        own = [layer for layer in layers if layer.bias and layer.bias.parameter(self.module) is not None]
        added = [layer for layer in self.layers if bias is not None and layer.bias and bias.covers(layer.bias)]
        if added != own or (bias is not None and len(bias) != len(weight)):
            self.refuse("does not add a projection's bias where it multiplies by its weight, in F.linear")

    def refuse(self, what: str) -> NoReturn:
        """Raise `UnsupportedLayer`."""
        layer = self.layers[0]
        raise UnsupportedLayer(
            f"{layer.path or 'the network'} ({layer.class_name}): its forward {what}; an adapter can act where it "
            f"calls F.linear(x, weight[rows], bias[rows]) with whole parts; exclude=[{layer.path!r}]"
        )


class StandIn:
    """Stand in for a parameter, or for some rows of it, while a layer's own forward runs."""

    def __init__(self, forward: AdaptedForward, name: str, values: Tensor, start: int) -> None:
        self.forward, self.name, self.values, self.start = forward, name, values, start

    @property
    def stop(self) -> int:
        """Give the row of the whole parameter after the last one."""
        return self.start + len(self)

    @property
    def shape(self) -> torch.Size:
        """Give the tensor's."""
        return self.values.shape

    @property
    def dtype(self) -> torch.dtype:
        """Give the tensor's."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Give the tensor's."""
        return self.values.device

    def covers(self, slot: Slot) -> bool:
        """Say whether all that a slot points at is in these rows."""
        first, last = slot.rows or (0, slot.shape[0])
        return self.name == slot.name and self.start <= first and last <= self.stop

    def size(self, dim: int | None = None) -> Any:
        """Give the tensor's."""
        return self.values.size() if dim is None else self.values.size(dim)

    def dim(self) -> int:
        """Give the tensor's."""
        return self.values.dim()

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, key: Any) -> StandIn:
        rows, *others = key if isinstance(key, tuple) else (key,)
        if not isinstance(rows, slice) or rows.step not in (None, 1) or any(one != slice(None) for one in others):
            self.forward.refuse(f"takes {self.name}[{key}], which is no range of rows")
        start, stop, _ = rows.indices(len(self))
        return StandIn(self.forward, self.name, self.values[start:stop], self.start + start)

    def narrow(self, dim: int, start: int, length: int) -> StandIn:
        """Take some rows."""
        self._check_axis(dim)
        return self[start : start + length]

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[StandIn, ...]:
        """Cut into ranges of rows."""
        self._check_axis(dim)
        whole, sizes = len(self), split_size
        if isinstance(sizes, int):
            sizes = [min(sizes, whole - start) for start in range(0, whole, sizes)]
        return tuple(self[sum(sizes[:index]) : sum(sizes[: index + 1])] for index in range(len(sizes)))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[StandIn, ...]:
        """Cut into so many ranges of rows."""
        return self.split(-(-len(self) // chunks), dim)

    def _check_axis(self, dim: int) -> None:
        if dim not in (0, -self.dim()):
            self.forward.refuse(f"cuts {self.name} along axis {dim}")

    def __getattr__(self, name: str) -> Callable[..., StandIn]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in _KEEPING:
            self.forward.refuse(f"uses {self.name}.{name}")

        def keep(*args: Any, **kwargs: Any) -> StandIn:
            return StandIn(self.forward, self.name, getattr(self.values, name)(*args, **kwargs), self.start)

        return keep

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Serve `F.linear` and what takes rows; raise `UnsupportedLayer` for every other function of torch."""
        kwargs = kwargs or {}
        one = next(value for value in _flat((*args, *kwargs.values())) if isinstance(value, cls))
        if func is F.linear:
            return one.forward.project(*args, **kwargs)
        if func in _SLICING and args and args[0] is one:
            return getattr(one, _SLICING[func])(*args[1:], **kwargs)
        return one.forward.refuse(f"uses {one.name} in {getattr(func, '__name__', func)}")


def _refuse_operator(stand_in: StandIn, other: Any) -> NoReturn:
    stand_in.forward.refuse(f"calculates with {stand_in.name}")


for _name in _OPERATORS:
    setattr(StandIn, _name, _refuse_operator)


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        else:
            yield value


def _parts(layers: Sequence[Layer]) -> str:
    return ", ".join(f"{layer.part} ({layer.weight.name} {layer.weight.rows or 'whole'})" for layer in layers)
