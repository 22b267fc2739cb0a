"""Leave out of a folded network what serves only what is absent: it gives a constant, so it need not run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from subsense.deployment.constants import fold_constants
from subsense.deployment.export import CHECKED_ROWS, CLOSE, Different, compare, take_rows, trace
from subsense.deployment.fuse import merge
from subsense.deployment.lower import plain
from subsense.errors import FoldError
from subsense.modalities import Axes, Combination, Modalities
from subsense.modalities.inputs import Filled, Inputs, named, read
from subsense.model.filled import FilledNetwork
from subsense.routing.groups import output_tensors
from subsense.support.modules import device_of
from subsense.support.torch_private import tree_map


def drop(filled: FilledNetwork, inputs: Inputs, largest: float = 1.0) -> nn.Module:
    """Give a network that takes what is present only, and computes what a network on filled inputs computes.

    Args:
        filled: the network, what stands in for what is absent, and how it is called.
        inputs: what is present (batch, ...), as the result will get it; the batch size alone may then be another.
        largest: of constants, see `subsense.deployment.constants.fold_constants`.

    Raises:
        FoldError: the network can't be exported, is no function of its inputs, or the result gives other numbers.
    """
    from subsense.deployment.layout import rearrange

    _switch_caches_off(filled.network)
    args, kwargs = present_arguments(filled, inputs)
    program = trace(_Present(filled, inputs, args, kwargs), args, kwargs, free_batch=True)
    graph = merge(fold_constants(program, largest))
    dropped = plain(rearrange(graph))
    _check(filled, dropped, inputs)
    return dropped


def _switch_caches_off(network: nn.Module) -> None:
    """Let a folded language model keep no keys and values: a cache is an object that no graph can hand out."""
    for module in network.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "use_cache", None):
            config.use_cache = False


def present_arguments(filled: FilledNetwork, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the arguments of the network that carry what is present, in the network's own form.

    A network that is called by a function of the user's gets modality -> tensor, as that function does.
    """
    return filled.call.arrange(filled.modalities, _present(filled, inputs))


def draw_example(modalities: Modalities, combination: Combination, network: nn.Module) -> Inputs:
    """Draw one row of what is present, for a network's device, where the declaration says enough.

    Raises:
        FoldError: a size is a letter, or an input has no floating-point values.
    """
    generator = torch.Generator().manual_seed(0)
    device = device_of(network)
    drawn = {
        name: tuple(_draw(part, axes, generator).to(device) for part, axes in modalities[name].parts.items())
        for name in combination
    }
    return named(modalities, drawn)


def _draw(part: str, axes: Axes, generator: torch.Generator) -> Tensor:
    sizes = [size for size in axes.sizes if isinstance(size, int)]
    if len(sizes) < len(axes.sizes) or not axes.torch_dtype.is_floating_point:
        raise FoldError(
            f"fold: drop_absent needs `example`, inputs such as the network will get: {part!r} is declared as "
            f"{str(axes)!r}, which leaves open what sizes or values it has"
        )
    return torch.randn(1, *sizes, generator=generator).to(axes.torch_dtype)


def _present(filled: FilledNetwork, inputs: Inputs) -> Filled:
    tensors = read(filled.modalities, inputs).tensors
    return {name: parts for name, parts in tensors.items() if parts is not None}


class _Present(FilledNetwork):
    """Take the arguments that carry what is present, fill in the rest, and call the network."""

    def __init__(self, filled: FilledNetwork, inputs: Inputs, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(filled.network, filled.fill, filled.call)
        self.like = _present(filled, inputs)
        vars(self)["forward"] = _signed(self._run, len(args), list(kwargs))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return FilledNetwork.forward(self, self.call.collect(self.modalities, self.like, args, kwargs))


def _signed(function: Callable[..., Any], num_args: int, keywords: list[str]) -> Callable[..., Any]:
    """Give a function the signature that its arguments have; `torch.export` asks for it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    kind = inspect.Parameter
    parameters = [kind(f"input_{index}", kind.POSITIONAL_OR_KEYWORD) for index in range(num_args)]
    parameters += [kind(name, kind.KEYWORD_ONLY) for name in keywords]
    vars(forward)["__signature__"] = inspect.Signature(parameters)
    return forward


def _check(filled: FilledNetwork, dropped: nn.Module, inputs: Inputs) -> None:
    for rows in CHECKED_ROWS:
        some = take_rows(dict(inputs), rows)
        args, kwargs = present_arguments(filled, some)
        what = f"the network without what is absent, on {rows} rows"
        with torch.no_grad():
            expected, found = output_tensors(filled(some)), output_tensors(dropped(*args, **kwargs))
            try:
                compare(what, expected, found, CLOSE)
            except Different:
                if rows == 1 or not all(one.dim() for one in expected):
                    raise
                compare(what, _alone(filled, some, rows), found, CLOSE)


def _alone(filled: FilledNetwork, inputs: dict[str, Any], rows: int) -> list[Tensor]:
    """Give what a network gives for each row alone: what it is, where rounding makes it differ from batch to batch."""
    each = [output_tensors(filled(tree_map(lambda one, row=row: one[row : row + 1], inputs))) for row in range(rows)]
    return [torch.cat(tensors) for tensors in zip(*each, strict=True)]
