"""What the signature of a network's forward says of the arguments that modalities are passed as."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import nn

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
    """Raise `ModalityError` where the network's `forward` has no argument of a name, or needs one that no modality is.

    What can't be told (a function that calls the network, ``**kwargs``, a forward without a signature, none) passes.
    """
    if call.form != "kwargs" or isinstance(network, torch.jit.ScriptModule):
        return
    if type(network).forward is nn.Module.forward:
        return
    try:
        parameters = inspect.signature(network.forward).parameters
    except (TypeError, ValueError):
        return
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
