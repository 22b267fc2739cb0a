"""What stands in for a missing input: zeros, a constant, the mean of data, a learned value, what a callable makes; or
nothing at all, and the network is called without it.

The paper (arXiv 2310.03986) fills with zeros. A value that a caller passes for a missing modality is never read. Masks
have a stand-in of their own, see `subsense.modalities.masks`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subsense.errors import InputError, ModalityError, closest
from subsense.modalities import Axes, Modalities
from subsense.modalities.inputs import Batch, Filled, named, read
from subsense.modalities.masks import Key, ask, find_masks, hidden
from subsense.modalities.names import attribute_name

FillFunction = Callable[[str, Mapping[str, Any], Tensor], Any]
OMIT = "omit"
ZEROS = ("zeros", "zeros-but-masks", "literal-zeros")
KINDS = (*ZEROS, "mean", "learned", "callable", OMIT)
Value = float | Tensor


@dataclass(frozen=True)
class Mean:
    """Fill a missing modality with its mean over data.

    The mean is taken over the rows that have the modality and over lettered axes; sized axes keep their own means.

    Args:
        data: batches ``(inputs, target)`` or ``inputs``, such as a training `DataLoader`; None: the mean is put in
            later, by `subsense.load`.
    """

    data: Iterable[Any] | None


@dataclass(frozen=True)
class Constant:
    """Fill a missing modality with a constant, the same in every row.

    Args:
        value: a number, or a tensor for one row that broadcasts to the modality's shape, with size 1 on lettered axes;
            where several arguments carry the modality, argument -> number or tensor, for each of them. None: it is put
            in later, by `subsense.load`.
        name: what tables and files call it.

    >>> Constant({"pixel_values": 1.0, "pixel_mask": 1}, name="white").name
    'white'
    """

    value: Value | Mapping[str, Value] | None
    name: str = "constant"

    def __post_init__(self) -> None:
        if not self.name or self.name in KINDS:
            raise ModalityError(f"fill: a constant can't be called {self.name!r}, which says another kind of fill")


FillSpec = str | Mean | Constant | FillFunction | Mapping[str, "str | Mean | Constant | FillFunction"]


class Filling(nn.Module):
    """Put stand-ins where inputs are missing.

    Args:
        modalities: the declared modalities.
        spec: ``"zeros"``, ``"learned"``, `Mean`, `Constant`, or a callable ``(modality, inputs, present) -> stand-in``,
            for all modalities or by name. The callable sees every modality as it will be called, zeros where it is
            missing, and `present` (batch, modality); it returns what has the shape of ``inputs[modality]``. Masks
            among several arguments keep the first token, or all of a picture, whatever stands in for the rest; with
            ``"literal-zeros"`` they are zero, too. With ``"omit"`` nothing stands in: the network is called without
            that argument, or with None for one that it needs, and rows that differ run in groups.
        arguments: (modality, part) -> argument of the network, where it isn't the part's own name: tells masks.

    Attributes:
        kinds: modality -> ``"zeros"``, ``"zeros-but-masks"`` (masks have a stand-in of their own),
            ``"literal-zeros"``, ``"mean"``, ``"learned"``, ``"callable"``, ``"omit"``, or else a constant's name.
        masks: (modality, part) -> what is known of the mask that it is.

    Raises:
        ModalityError: an unknown fill or modality; a mean or learned value for an integer input; a constant that the
            shape or dtype of its input can't hold.
    """

    def __init__(
        self, modalities: Modalities, spec: FillSpec = "zeros", arguments: Mapping[Key, str] | None = None
    ) -> None:
        super().__init__()
        self.modalities = modalities
        chosen = _by_modality(modalities, spec)
        self.masks, doubtful = find_masks(modalities, arguments)
        masked, asked = ({name for name, _ in found} for found in (self.masks, doubtful))
        self.kinds = {name: _kind(name, choice, name in masked, name in asked) for name, choice in chosen.items()}
        self._asked = {key: one for key, one in doubtful.items() if self.kinds[key[0]] in ("zeros", "zeros-but-masks")}
        self.functions = {name: choice for name, choice in chosen.items() if self.kinds[name] == "callable"}
        self.parts = {(name, part): axes for name in modalities for part, axes in modalities[name].parts.items()}
        for name, choice in chosen.items():
            if isinstance(choice, Constant):
                _check_constant(name, modalities[name].parts, choice)
        for (name, part), axes in self.parts.items():
            self._make(name, part, axes, chosen[name])
        means = {id(choice): choice for choice in chosen.values() if isinstance(choice, Mean)}
        for mean in means.values():
            if mean.data is not None:
                self._measure([name for name, choice in chosen.items() if choice is mean], mean.data)

    @property
    def omitted(self) -> frozenset[str]:
        """Give the modalities for which nothing stands in."""
        return frozenset(name for name, kind in self.kinds.items() if kind == OMIT)

    @property
    def spec(self) -> str | dict[str, str]:
        """Give what stands in for each modality, in words; one word where all are alike."""
        kinds = set(self.kinds.values())
        return kinds.pop() if len(kinds) == 1 else dict(self.kinds)

    def stand_ins(self) -> dict[str, Tensor]:
        """Give the tensors to keep: ``fill.modality.part`` -> constant, mean or learned value."""
        return {name: getattr(self, _attribute(*key)) for name, key in self.names().items()}

    def names(self) -> dict[str, tuple[str, str]]:
        """Give modality and part of each tensor to keep, by its name ``fill.modality.part``."""
        return {f"fill.{_escaped(key[0])}.{key[1]}": key for key in self.parts if self._is_kept(*key)}

    def describe_masks(self) -> list[str]:
        """Say what stands in for the masks of what is missing, and of which that can't be told: a line for each."""
        lines = [
            f"where {name} is missing, {mask}" for (name, part), mask in self.masks.items() if self._is_own(name, part)
        ]
        return [*lines, *(f"where {name} is missing, {one} is zero: say whether 1 is read or hidden"
                          for (name, _), one in self._asked.items())]  # fmt: skip

    def ask(self) -> None:
        """Warn of arguments that are called a mask without saying what their values mean."""
        for (name, part), argument in self._asked.items():
            warnings.warn(ask(self.modalities[name], part, argument), stacklevel=3)

    def hidden(self, filled: Filled) -> str:
        """Name the masks of filled inputs that hide everything: ``every token of text is masked (attention_mask)``."""
        return hidden(self.modalities, self.masks, filled)

    def forward(self, batch: Batch) -> Filled:
        """Give every modality's tensors (batch, ...), stand-ins where `batch.present` says that a row lacks it.

        A modality for which nothing stands in is left out where no row has it; where some do, the others get zeros
        until they are put into a group of their own, see `subsense.modalities.calling.Call.without`.
        """
        simple = {
            name: self._fill(batch, column, name)
            for column, name in enumerate(self.modalities)
            if self.kinds[name] != OMIT or self._is_there(batch, column, name)
        }
        missing = {name: function for name, function in self.functions.items() if name not in batch.whole}
        return simple | {name: self._call(batch, name, function, simple) for name, function in missing.items()}

    def _is_there(self, batch: Batch, column: int, name: str) -> bool:
        if batch.tensors[name] is None or name in batch.whole or torch.compiler.is_compiling():
            return batch.tensors[name] is not None
        return bool(batch.present[:, column].any())

    def _is_kept(self, name: str, part: str) -> bool:
        return self.kinds[name] not in (*ZEROS, "callable", OMIT) and not self._is_own(name, part)

    def _is_own(self, name: str, part: str) -> bool:
        """Say whether a part is a mask with a stand-in of its own."""
        return (name, part) in self.masks and self.kinds[name] in ("zeros-but-masks", "mean", "learned")

    def _make(self, name: str, part: str, axes: Axes, choice: Any) -> None:
        if not self._is_kept(name, part):
            return
        attribute, kind = _attribute(name, part), self.kinds[name]
        value = torch.zeros([size if isinstance(size, int) else 1 for size in axes.sizes], dtype=axes.torch_dtype)
        if isinstance(choice, Constant):
            self.register_buffer(attribute, _constant(name, part, axes, choice, value))
        elif not axes.torch_dtype.is_floating_point:
            raise ModalityError(
                f"fill {kind!r} for {name!r}: input {part!r} is {axes.dtype}, and only floating-point "
                "inputs have such a stand-in; choose 'zeros', a subsense.Constant or a callable"
            )
        elif kind == "learned":
            self.register_parameter(attribute, nn.Parameter(value))
        else:
            self.register_buffer(attribute, value)

    def _measure(self, names: list[str], data: Iterable[Any]) -> None:
        sums = {
            key: torch.zeros_like(getattr(self, _attribute(*key)), dtype=torch.float64)
            for key in self.parts
            if key[0] in names and self._is_kept(*key)
        }
        counts = dict.fromkeys(sums, 0.0)
        for item in data:
            batch = read(self.modalities, item[0] if isinstance(item, (tuple, list)) else item)
            for key in sums:
                rows = _present_rows(batch, self.modalities, key)
                if rows is not None:
                    axes = [axis for axis, size in enumerate(self.parts[key].sizes, start=1) if isinstance(size, str)]
                    sums[key] += rows.double().sum([0, *axes], keepdim=True)[0].cpu()
                    counts[key] += len(rows) * torch.tensor([rows.shape[axis] for axis in axes]).prod().item()
        for key, total in sums.items():
            if not counts[key]:
                raise ModalityError(f"fill 'mean' for {key[0]!r}: the data has no row in which it is present")
            getattr(self, _attribute(*key)).copy_(total / counts[key])

    def _fill(self, batch: Batch, column: int, name: str) -> tuple[Tensor, ...]:
        given = batch.tensors[name]
        if given is not None and name in batch.whole:
            return given
        parts = self.modalities[name].parts
        stands = [self._stand_in(batch, name, part, axes) for part, axes in parts.items()]
        if given is None:
            return tuple(stands)
        return tuple(_where(batch, column, tensor, stand) for tensor, stand in zip(given, stands, strict=True))

    def _stand_in(self, batch: Batch, name: str, part: str, axes: Axes) -> Tensor:
        shape = batch.shape(name, axes)
        if self._is_own(name, part):
            return self.masks[name, part].stand_in(shape, batch.device)
        if self._is_kept(name, part):
            value: Tensor = getattr(self, _attribute(name, part))
            return value.to(batch.device).expand(shape).contiguous()
        return torch.zeros(shape, dtype=axes.torch_dtype, device=batch.device)

    def _call(self, batch: Batch, name: str, function: FillFunction, simple: Filled) -> tuple[Tensor, ...]:
        modality, column = self.modalities[name], self.modalities.names.index(name)
        made = function(name, named(self.modalities, simple), batch.present.to(batch.device))
        made = {name: made} if modality.is_single else made
        if not isinstance(made, Mapping) or set(made) != set(modality.parts):
            found = sorted(made) if isinstance(made, Mapping) else type(made).__name__
            raise InputError(
                f"fill function for {name!r}: expected a mapping with {list(modality.parts)}, but found {found}"
            )
        return tuple(
            _where(batch, column, tensor, _checked(name, part, made[part], tensor))
            for part, tensor in zip(modality.parts, simple[name], strict=True)
        )


def _where(batch: Batch, column: int, tensor: Tensor, stand_in: Tensor) -> Tensor:
    has = batch.present[:, column].to(batch.device).view(-1, *[1] * (tensor.dim() - 1))
    if tensor.dtype == torch.bool:  # onnxruntime has no kernel that chooses between booleans
        return (has & tensor) | (~has & stand_in)
    return torch.where(has, tensor, stand_in)


def _attribute(name: str, part: str) -> str:
    return ":".join(attribute_name(one).replace(":", "%3A") for one in (name, part))


def _escaped(name: str) -> str:
    """Write a modality's name without dots: what comes after the first dot is the part."""
    return name.replace("%", "%25").replace(".", "%2E")


def _by_modality(modalities: Modalities, spec: FillSpec) -> dict[str, Any]:
    if not isinstance(spec, Mapping):
        return dict.fromkeys(modalities, spec)
    for name in spec:
        if name not in modalities:
            raise ModalityError(f"fill: unknown modality {name!r}.{closest(str(name), modalities)}")
    return {name: spec.get(name, "zeros") for name in modalities}


def _kind(name: str, choice: Any, is_masked: bool, is_doubtful: bool) -> str:
    """Say what stands in for a modality; zeros where that is no other than what has no mask."""
    if isinstance(choice, str) and choice in ZEROS:
        if choice == "literal-zeros":
            return choice if is_masked or is_doubtful else "zeros"
        return "zeros-but-masks" if is_masked else "zeros"
    if isinstance(choice, Mean):
        return "mean"
    if isinstance(choice, Constant):
        return choice.name
    if callable(choice):
        return "callable"
    if choice == "mean":
        raise ModalityError(f"fill 'mean' for {name!r} needs data to take it from: fill=subsense.Mean(train_loader)")
    if choice not in ("learned", OMIT):
        raise ModalityError(
            f"fill for {name!r}: expected 'zeros', 'literal-zeros', 'learned', 'omit', subsense.Mean(data), "
            f"subsense.Constant(value) or a callable, but found {choice!r}.{closest(str(choice), KINDS)}"
        )
    return str(choice)


def _check_constant(name: str, parts: Mapping[str, Axes], constant: Constant) -> None:
    value = constant.value
    if isinstance(value, Mapping) and set(value) != set(parts):
        raise ModalityError(
            f"fill {constant.name!r} for {name!r}: expected a value for each of {list(parts)}, but found {list(value)}"
        )


def _constant(name: str, part: str, axes: Axes, constant: Constant, like: Tensor) -> Tensor:
    """Give a constant's value for one input, in the shape and dtype of `like`."""
    value = constant.value[part] if isinstance(constant.value, Mapping) else constant.value
    if value is None:
        return like
    given = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    cast = given.to(like.dtype)
    if not (like.is_floating_point() or torch.equal(cast.double(), given.double())):
        raise ModalityError(
            f"fill {constant.name!r} for {name!r}: input {part!r} is {axes.dtype}, which can't hold {given.tolist()}"
        )
    try:
        return cast.expand_as(like).clone()
    except RuntimeError:
        raise ModalityError(
            f"fill {constant.name!r} for {name!r}: expected a number or a tensor that broadcasts to "
            f"{tuple(like.shape)} ({part!r} is {str(axes)!r}, lettered axes have size 1), but found "
            f"shape {tuple(given.shape)}"
        ) from None


def _present_rows(batch: Batch, modalities: Modalities, key: tuple[str, str]) -> Tensor | None:
    name, part = key
    given = batch.tensors[name]
    if given is None:
        return None
    tensor = given[list(modalities[name].parts).index(part)]
    return tensor[batch.present[:, modalities.names.index(name)].to(tensor.device)]


def _checked(name: str, part: str, made: Any, like: Tensor) -> Tensor:
    if not isinstance(made, Tensor) or made.shape != like.shape or made.dtype != like.dtype:
        found = f"{tuple(made.shape)} {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        raise InputError(
            f"fill function for {name!r}: expected {part!r} as {tuple(like.shape)} {like.dtype}, but found {found}"
        )
    return made
