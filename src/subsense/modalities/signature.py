"""What the signature of a network's forward says of the arguments that modalities are passed as."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from subsense.errors import ModalityError, closest
from subsense.modalities import Modalities

if TYPE_CHECKING:
    from subsense.modalities.calling import Call


def needed_arguments(network: nn.Module) -> frozenset[str]:
    """Give the arguments of a network's forward that have no default."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    return frozenset(one.name for one in parameters if one.default is one.empty)


def check_signature(network: nn.Module, call: Call, modalities: Modalities) -> None:
    """Raise `ModalityError` where the network's `forward` doesn't take what it will be called with, or needs more.

    By keywords, that is an argument for each; by position, enough places; as a list, a dict or one stacked tensor, one
    place, not annotated as something else. What can't be told (a function that calls the network, ``*args``,
    ``**kwargs``, a forward without a signature, none) passes.
    """
    if call.form == "function" or isinstance(network, torch.jit.ScriptModule):
        return
    if type(network).forward is nn.Module.forward:
        return
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):
        return
    if call.form == "kwargs":
        _check_keywords(network, signature.parameters, call, modalities)
    elif not network._forward_pre_hooks:  # which may arrange the arguments anew
        _check_places(network, signature, call, modalities)


FORMS = ("kwargs", "positional", "list", "dict", "channels")
FAMILIES: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "list": ("a list", (list, tuple, Sequence)),
    "dict": ("a dict", (dict, Mapping)),
    "channels": ("one tensor", (Tensor,)),
}
"""Calling form -> what it hands over, and the classes as which a forward may annotate that."""
_KNOWN = tuple(cls for _, classes in FAMILIES.values() for cls in classes)


def _check_places(network: nn.Module, signature: inspect.Signature, call: Call, modalities: Modalities) -> None:
    """Check what is handed over by place: every part of every modality, or one argument that holds all."""
    count = sum(len(modality.parts) for modality in modalities.values()) if call.form == "positional" else 1
    what, classes = FAMILIES.get(call.form, (f"{count} tensors by place", ()))
    found = f"call={call.form!r} hands over {what}, but {type(network).__name__}.forward{signature}"
    ways = f"choose another: {', '.join(repr(form) for form in FORMS if form != call.form)}, or a function"
    try:
        places = signature.bind(*range(count)).arguments
    except TypeError as error:
        raise ModalityError(f"call: {found} can't be called so: {error}; {ways}") from None
    annotated = _annotation(network, next(iter(places), "")) if classes else ()
    if annotated and not any(cls in classes or cls is Tensor for cls in annotated):
        raise ModalityError(f"call: {found} takes something else; {ways}")


def _annotation(network: nn.Module, name: str) -> tuple[Any, ...]:
    """Give the classes as which an argument is annotated; none where one of them isn't a list, a dict or a tensor."""
    try:
        hint = get_type_hints(network.forward).get(name)
    except Exception:  # names that exist for type checkers alone
        return ()
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    classes = tuple(get_origin(one) or one for one in options if one is not type(None))
    return classes if all(cls in _KNOWN for cls in classes) else ()


def _check_keywords(
    network: nn.Module, parameters: Mapping[str, inspect.Parameter], call: Call, modalities: Modalities
) -> None:
    kinds = {one.kind for one in parameters.values()}
    known = [one.name for one in parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    names = [call.argument(name, part) for name, modality in modalities.items() for part in modality.parts]
    for name in names:
        if name not in known and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise ModalityError(
                f"call: {type(network).__name__}.forward has no argument {name!r}; it has "
                f"{', '.join(known) or 'none'}.{closest(name, known)} Name the modality as the argument, or map it: "
                f"call={{{name!r}: 'argument'}}; a network that takes no keywords: call='positional' or 'list'"
            )
    needed = [name for name in known if parameters[name].default is inspect.Parameter.empty and name not in names]
    if needed:
        raise ModalityError(
            f"call: {type(network).__name__}.forward needs {', '.join(map(repr, needed))}, which no modality is; "
            "declare it, or pass a function: call=lambda network, inputs: network(**inputs, ...)"
        )
