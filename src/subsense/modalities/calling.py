"""How a dict of modalities becomes the network's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from subsense.errors import InputError, ModalityError, closest
from subsense.modalities import AxisSpec, Modalities
from subsense.modalities.inputs import Filled, Inputs, named
from subsense.modalities.signature import FORMS, needed_arguments

CallFunction = Callable[..., Any]
"""``(network, inputs) -> output``, or ``(network, inputs, present) -> output``."""
CallSpec = str | Mapping[str, str | Sequence[str]] | CallFunction


@dataclass(frozen=True)
class Call:
    """Call the network as it wants to be called.

    Attributes:
        form: one of ``"kwargs"``, ``"positional"``, ``"list"``, ``"dict"``, ``"channels"``, ``"function"``.
        arguments: for ``"kwargs"``: (modality, part) -> argument name, where it isn't the part's own name.
        function: for ``"function"``: ``(network, inputs) -> output``.
        is_told: whether the function has an argument `present`, in which it is told what each row has.
        omits: modalities without which the network is called where they are missing.
        needed: arguments that the network can't be called without; they are None where a modality is left out.
    """

    form: str
    arguments: Mapping[tuple[str, str], str] = field(default_factory=dict)
    function: CallFunction | None = None
    is_told: bool = False
    omits: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()

    @property
    def needs_groups(self) -> bool:
        """Say whether rows that differ must run in groups: a row can't be called without what another one has.

        Nor with a function that isn't told, which may look at stand-ins.
        """
        return bool(self.omits) or (self.function is not None and not self.is_told)

    @property
    def why_groups(self) -> str:
        """Say why rows that differ must run in groups; empty where they need not."""
        if self.omits:
            return f"nothing stands in for {', '.join(sorted(self.omits))} (fill 'omit')"
        told = "the function that calls the network isn't told what each row has (by an argument `present`)"
        return told if self.needs_groups else ""

    @property
    def spec(self) -> str | dict[str, list[str]]:
        """Give the form as plain data, as `parse_call` reads it; ``"function"`` for a callable."""
        if not self.arguments:
            return self.form
        names: dict[str, list[str]] = {}
        for (modality, _), argument in self.arguments.items():
            names.setdefault(modality, []).append(argument)
        return names

    def omitting(self, network: nn.Module, omits: frozenset[str]) -> Call:
        """Give the same call of a network that is called without these modalities where they are missing.

        Raises:
            ModalityError: the form stacks modalities, so that none can be left out.
        """
        if omits and self.form == "channels":
            raise ModalityError(
                f"fill 'omit' for {', '.join(sorted(omits))}: call 'channels' stacks all modalities into one tensor, "
                "of which none can be left out; choose another fill, such as 'zeros'"
            )
        return replace(self, omits=omits, needed=needed_arguments(network) if omits else frozenset())

    def without(self, modalities: Modalities, tensors: Filled, code: int) -> Filled:
        """Leave out what rows lack that all have the modalities of the bit mask, where nothing stands in for it."""
        lacking = {name for bit, name in enumerate(modalities) if not code >> bit & 1}
        return {name: parts for name, parts in tensors.items() if name not in self.omits & lacking}

    def fullest(self, modalities: Modalities, tensors: Filled, codes: Sequence[int]) -> Filled:
        """Give rows of a batch on which to find out where rows are: those with the most modalities, without the rest.

        Where something stands in for all that is missing, any row will do, and the batch comes back as it is.
        """
        if not self.omits:
            return tensors
        most = max(codes, key=int.bit_count)
        rows = [row for row, code in enumerate(codes) if code == most]
        taken = {name: tuple(tensor[rows] for tensor in parts) for name, parts in tensors.items()}
        return self.without(modalities, taken, most)

    def arrange(
        self, modalities: Modalities, tensors: Filled, omitted: Collection[str] = ()
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give the positional and keyword arguments for the network, or those that carry what `tensors` has.

        What is `omitted` keeps its place: None, or not passed where the network can be called without.
        """
        names = [name for name in modalities if name in tensors or name in omitted]
        parts = {name: tensors.get(name, (None,) * len(modalities[name].parts)) for name in names}
        if self.form == "kwargs":
            given = {
                self.argument(name, part): tensor
                for name in names
                for part, tensor in zip(modalities[name].parts, parts[name], strict=True)
            }
            return (), {name: value for name, value in given.items() if value is not None or name in self.needed}
        flat: list[Any] = [tensor for name in names for tensor in parts[name]]
        if self.form == "positional":
            return tuple(flat), {}
        if self.form == "list":
            return (flat,), {}
        if self.form == "channels":
            return (torch.cat(flat, dim=1),), {}
        return (named(modalities, tensors),), {}

    def keywords(self, network: nn.Module, modalities: Modalities, tensors: Filled) -> dict[str, Any]:
        """Give everything that the network is called with as keywords.

        Raises:
            InputError: it is called otherwise, or by a function that doesn't say how (by an attribute `arguments`).
        """
        arguments = getattr(self.function, "arguments", None)
        if arguments is not None:
            given: dict[str, Any] = arguments(network, named(modalities, tensors))
            return given
        if self.form != "kwargs":
            raise InputError(
                f"generate: the network is called by {self.form!r}, which doesn't say which keywords its `generate` "
                "gets; declare modalities by the names of its arguments (call='kwargs'), or call it by an object that "
                "has arguments(network, inputs), such as subsense.integrations.transformers.LanguageModelCall"
            )
        return self.arrange(modalities, tensors, self.omits)[1]

    def argument(self, modality: str, part: str) -> str:
        """Give the name of the argument that carries a part."""
        return self.arguments.get((modality, part), part)

    def collect(
        self, modalities: Modalities, like: Filled, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Give back the inputs that `arrange` made these arguments of; `like`: tensors of the same names and sizes."""
        if self.form in ("dict", "function"):
            return dict(args[0])
        keys = [(name, part) for name in like for part in modalities[name].parts]
        if self.form == "kwargs":
            flat = [kwargs[self.argument(*key)] for key in keys]
        elif self.form == "channels":
            flat = list(args[0].split([tensor.shape[1] for tensors in like.values() for tensor in tensors], dim=1))
        else:
            flat = list(args[0] if self.form == "list" else args)
        tensors = dict(zip(keys, flat, strict=True))
        return named(modalities, {name: tuple(tensors[name, part] for part in modalities[name].parts) for name in like})

    def rows(self, modalities: Modalities, tensors: Filled, code: int) -> Tensor | None:
        """Give what rows have that all have the same, bool (batch, modality); None where nobody is told."""
        if not self.is_told:
            return None
        bits = [bool(code >> bit & 1) for bit in range(len(modalities))]
        return torch.tensor(bits).expand(len(next(iter(tensors.values()))[0]), -1)

    def __call__(
        self, network: nn.Module, modalities: Modalities, tensors: Filled, present: Tensor | None = None
    ) -> Any:
        """Call the network on filled tensors and give back its own output.

        `present`, bool (batch, modality), is for a function that is told; None stands for everything.
        """
        if self.function is not None and self.is_told:
            first = next(iter(tensors.values()))[0]
            if present is None:
                present = torch.ones(len(first), len(modalities), dtype=torch.bool)
            return self.function(network, named(modalities, tensors), present=present.to(first.device))
        if self.function is not None:
            return self.function(network, named(modalities, tensors))
        args, kwargs = self.arrange(modalities, tensors, self.omits)
        return network(*args, **kwargs)


def parse_call(call: CallSpec, modalities: Modalities) -> Call:
    """Read the `call` argument of `adapt`.

    Args:
        call: ``"kwargs"`` (an argument is named as its modality), ``"positional"``, ``"list"``, ``"dict"``,
            ``"channels"`` (one tensor, modalities stacked along the channel axis in declared order), modality ->
            argument names, or a callable ``(network, inputs) -> output``. One with an argument `present` gets what
            each row has, bool (batch, modality), modalities as declared; for any other, rows that differ run in groups.

    Raises:
        ModalityError: an unknown form or modality, a wrong number of names, modalities that can't be stacked.
    """
    if isinstance(call, Mapping):
        return Call("kwargs", _arguments(call, modalities))
    if callable(call):
        return Call("function", function=call, is_told=_takes_present(call))
    if call not in FORMS:
        raise ModalityError(
            f"call: expected one of {', '.join(FORMS)}, a mapping of modality to argument names, or a "
            f"callable, but found {call!r}.{closest(str(call), FORMS)}"
        )
    if call == "kwargs":
        _check_arguments([part for modality in modalities.values() for part in modality.parts])
    if call == "channels":
        _check_channels(modalities)
    return Call(call)


def _takes_present(function: CallFunction) -> bool:
    try:
        return "present" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def spread_arguments(spec: Mapping[str, AxisSpec], call: CallSpec) -> dict[str, AxisSpec]:
    """Give every argument of a modality its axis string, where `call` names several arguments for one axis string.

    >>> spread_arguments({"text": "L:int64"}, {"text": ["input_ids", "attention_mask"]})
    {'text': {'input_ids': 'L:int64', 'attention_mask': 'L:int64'}}
    """
    names = {one: _names(call[one]) for one in call} if isinstance(call, Mapping) else {}
    return {
        modality: dict.fromkeys(names[modality], axes)
        if isinstance(axes, str) and len(names.get(modality, ())) > 1
        else axes
        for modality, axes in spec.items()
    }


def _names(argument: str | Sequence[str]) -> list[str]:
    return [argument] if isinstance(argument, str) else list(argument)


def _arguments(call: Mapping[str, str | Sequence[str]], modalities: Modalities) -> dict[tuple[str, str], str]:
    for name in call:
        if name not in modalities:
            raise ModalityError(f"call: unknown modality {name!r}.{closest(str(name), modalities)}")
    arguments: dict[tuple[str, str], str] = {}
    for name, modality in modalities.items():
        given = _names(call.get(name, tuple(modality.parts)))
        if len(given) != len(modality.parts):
            raise ModalityError(
                f"call: modality {name!r} is carried by {list(modality.parts)}, "
                f"but {len(given)} argument names were given: {given}"
            )
        arguments |= {(name, part): str(argument) for part, argument in zip(modality.parts, given, strict=True)}
    _check_arguments(list(arguments.values()))
    return arguments


def _check_arguments(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ModalityError(f"call: the argument {name!r} is named twice, and it can carry one input only")


def gather(modalities: Modalities, call: Call, inputs: Inputs | Tensor | None, others: Mapping[str, Any]) -> Inputs:
    """Give modality -> tensor, of whatever form a caller passed it in.

    Args:
        modalities: the declared ones.
        call: how the network is called.
        inputs: a mapping, or, for ``"channels"``, one tensor of all modalities (batch, channels, ...).
        others: the inputs as keywords, by the names of modalities or of the arguments that carry them.

    Raises:
        InputError: both, or a tensor that can't be taken apart.

    >>> modalities = Modalities({"image": "3", "text": {"ids": "L", "mask": "L"}})
    >>> sorted(gather(modalities, Call("kwargs"), None, {"ids": 1, "mask": 2})["text"])
    ['ids', 'mask']
    """
    if isinstance(inputs, Tensor):
        return _unstack(modalities, call, inputs)
    if inputs is not None or not others:
        if others:
            raise InputError(f"expected a mapping or keywords, but found both: {', '.join(others)} beside the mapping")
        return inputs if inputs is not None else {}
    owners = {
        call.argument(name, part): (name, part) for name, modality in modalities.items() for part in modality.parts
    }
    found: dict[str, Any] = {}
    for key, value in others.items():
        name, part = (key, key) if key in modalities or key not in owners else owners[key]
        if name == key or modalities[name].is_single:
            found[name] = value
        elif value is not None:
            found.setdefault(name, {})[part] = value
    return found


def _unstack(modalities: Modalities, call: Call, stacked: Tensor) -> Inputs:
    """Take a stacked tensor apart by the declared numbers of channels."""
    parts = [(name, axes.sizes[0]) for name, modality in modalities.items() for axes in modality.parts.values()]
    sizes = [size for _, size in parts if isinstance(size, int)]
    if call.form != "channels" or len(sizes) < len(parts) or stacked.dim() < 2 or stacked.shape[1] != sum(sizes):
        wanted = "a mapping of modality to tensor"
        if call.form == "channels":
            wanted += f", or one tensor (batch, {' + '.join(str(size) for _, size in parts)}, ...)"
        raise InputError(f"expected {wanted}, but found a tensor of shape {tuple(stacked.shape)}")
    pieces = iter(stacked.split(sizes, 1))
    return named(
        modalities, {name: tuple(next(pieces) for _ in modality.parts) for name, modality in modalities.items()}
    )


def _check_channels(modalities: Modalities) -> None:
    first, *others = [axes for modality in modalities.values() for axes in modality.parts.values()]
    for axes in others:
        if axes.sizes[1:] != first.sizes[1:] or axes.dtype != first.dtype or not axes.sizes:
            raise ModalityError(
                f"call 'channels' stacks all modalities along their first axis, so the others must agree: "
                f"found {str(first)!r} and {str(axes)!r}"
            )
