"""Torch's private names that the core needs, each behind a function, so that an upgrade of torch fails here and loudly.

tests/support/test_torch_private.py says of each what it must do. The graph passes have their own:
`subsense.deployment.torch_private`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as Convolution
from torch.nn.modules.conv import _ConvTransposeNd as TransposedConvolution
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm
from torch.nn.modules.module import _global_forward_hooks
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.checkpoint import CheckpointFunction

__all__ = [
    "BatchNorm",
    "Convolution",
    "InstanceNorm",
    "NormBase",
    "TransposedConvolution",
    "TreeSpec",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
]

_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_convolution_backward = torch.ops.aten.convolution_backward.default

Function = TypeVar("Function", bound=Callable[..., Any])

# ---- autograd


def transforms_act() -> bool:
    """Say whether a transform of `torch.func` is running."""
    return torch._C._are_functorch_transforms_active()


def forward_gradients_act() -> bool:
    """Say whether gradients are carried along the forward."""
    return forward_ad._current_level >= 0


def in_backward() -> bool:
    """Say whether this runs within a backward pass."""
    return torch._C._current_graph_task_id() != -1


def next_node() -> int:
    """Give the number that the next node of a graph gets, in this thread."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


def node_in_backward() -> int:
    """Give the number of the node whose backward pass is running, -1 outside one."""
    node = torch._C._current_autograd_node()
    return -1 if node is None else node._sequence_nr()


def keep_with(tensor: Tensor, value: Any) -> None:
    """Keep a value as long as the graph that made a tensor."""
    assert tensor.grad_fn is not None
    metadata: Any = tensor.grad_fn.metadata
    metadata.setdefault("subsense", []).append(value)


def is_saved_by_hooks() -> bool:
    """Say whether what a graph saves goes through somebody's hooks, as within activation checkpointing."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def loses_gradients() -> bool:
    """Say whether this runs in a reentrant checkpoint whose inputs ask for no gradient: nothing inside gets one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            given = frame.f_locals["args"]
            return not any(one.requires_grad for one in tree_leaves(given) if isinstance(one, Tensor))
        frame = frame.f_back
    return False


def version_of(tensor: Tensor) -> int:
    """Give a number that grows when a tensor, or a view of it, is changed in place."""
    return tensor._version


def alias_of(tensor: Tensor) -> Tensor:
    """Give the same memory with a version of its own: writing there doesn't disturb a graph that has the tensor."""
    return tensor.data


# ---- kernels


def both_sums(grad: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Give sum(grad (y - mean)) * deviation and sum(grad) of (row, channel, ...), for each channel, in one pass."""
    _, total, plain = _batch_norm_backward(grad, y, None, None, None, mean, deviation, True, 0.0, [False, True, True])
    return total, plain


def convolution_back(module: Any, grad: Tensor, weight: Tensor, form: tuple[torch.Size, tuple[int, ...]]) -> Tensor:
    """Give the gradient of a convolution's input, of which no more than shape and strides are looked at."""
    like = grad.new_empty_strided(*form)
    where = module.stride, module.padding, module.dilation, False, [0] * len(module.stride), module.groups
    found: tuple[Tensor, None, None] = _convolution_backward(grad, like, weight, None, *where, [True, False, False])
    return found[0]


# ---- modules


def convolve(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve as a layer does, its padding of every kind included, with another weight and no bias."""
    if own_forward(type(module)) is None:
        output: Tensor = module._conv_forward(x, weight, None)
        return output
    plain = {"weight": weight} if module.bias is None else {"weight": weight, "bias": weight.new_zeros(len(weight))}
    own: Tensor = functional_call(module, plain, (x,))
    return own


COMPUTES = ("forward", nn.Conv2d._conv_forward.__name__)
"""The methods of torch's layers that compute an output."""
LAYERS = frozenset(
    base
    for cls in vars(nn).values()
    if isinstance(cls, type) and issubclass(cls, nn.Module)
    for base in cls.__mro__
)  # fmt: skip
"""Torch's own classes of layers, with their bases."""


def own_forward(cls: type) -> type | None:
    """Give the class which replaces a method that computes the output by one that isn't torch's.

    >>> own_forward(nn.Conv2d)
    """
    definers = (next((base for base in cls.__mro__ if name in vars(base)), None) for name in COMPUTES)
    return next((definer for definer in definers if definer is not None and definer not in LAYERS), None)


_MODULE = frozenset(vars(nn.Module())) | {"training"}


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Give what a module holds beside what every module does.

    >>> own_attributes(nn.Linear(2, 3))
    {'in_features': 2, 'out_features': 3}
    """
    return {name: value for name, value in vars(module).items() if name not in _MODULE}


def is_packed(attention: nn.MultiheadAttention) -> bool:
    """Say whether query, key and value have one weight."""
    packed: bool = attention._qkv_same_embed_dim
    return packed


def channel_axis(norm: nn.Module) -> int:
    """Give the axis of the channels of an instance norm, with or without a batch, from the end."""
    assert isinstance(norm, InstanceNorm)
    axis: int = norm._get_no_batch_dim()
    return -axis


def is_first_hook(module: nn.Module, hook: Any) -> bool:
    """Say whether a forward hook is the first that sees a layer's output."""
    return next(iter(module._forward_hooks.values())) is hook and not _global_forward_hooks


def forward_hooks(module: nn.Module) -> Iterator[Any]:
    """Give a layer's forward hooks, in the order in which they run."""
    return iter(module._forward_hooks.values())


def all_hooks(module: nn.Module) -> Iterator[Any]:
    """Give a layer's hooks before and after its forward."""
    yield from module._forward_pre_hooks.values()
    yield from module._forward_hooks.values()


def fully_sharded() -> tuple[type, ...]:
    """Give the class of modules whose weights `fully_shard` splits; none where that was never imported."""
    return tuple(loaded({"torch.distributed.fsdp:FSDPModule": ""}))


def is_sharded(network: nn.Module) -> bool:
    """Say whether a network, or a part of it, is split.

    >>> is_sharded(nn.Linear(2, 2))
    False
    """
    kinds = fully_sharded()
    return bool(kinds) and any(isinstance(module, kinds) for module in network.modules())


def name_of(network: nn.Module) -> str:
    """Give the name of a network's class, which splitting replaces by one of its own.

    >>> name_of(nn.Linear(2, 2))
    'Linear'
    """
    cls = type(network)
    return (cls.__bases__[1] if issubclass(cls, fully_sharded()) else cls).__name__


def whole(tensor: Tensor) -> Tensor:
    """Give all of a tensor; every process has to ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def plain_parts(tensor: Tensor) -> Iterator[Tensor]:
    """Give the plain tensors of which a tensor of a class of its own is made (codes and their factors); itself else."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from plain_parts(getattr(tensor, name))


def is_hook_place(name: str) -> bool:
    """Say whether a module keeps hooks under a name."""
    return "hooks" in name and name in _MODULE


def is_of_sharding(name: str) -> bool:
    """Say whether `fully_shard` put an attribute of that name on a module."""
    return name.startswith(("__composable_api_state_key", "_fsdp_use_orig_params", "_is_fsdp_managed_module"))


def was_compiled(module: nn.Module) -> bool:
    """Say whether `compile` was called on a module, so that its call runs a graph."""
    return module._compiled_call_impl is not None


def loaded(places: Mapping[str, str]) -> dict[type, str]:
    """Give the classes at places, ``package.module:name``, as far as their modules are loaded; others have no objects.

    A name that its module lacks is an error.
    """
    pairs = [(place.partition(":"), text) for place, text in places.items()]
    return {getattr(sys.modules[module], name): text for (module, _, name), text in pairs if module in sys.modules}


# ---- compiling


def constant_in_graphs(function: Function) -> Function:
    """Let a function run while a graph is traced, and be no part of it.

    It is what `torch.compiler.assume_constant_result` does, for the price of importing torch._dynamo wherever subsense
    is imported.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function


def most_graphs() -> int:
    """Give how many graphs torch makes of one function before it gives up."""
    most: int = torch._dynamo.config.recompile_limit
    return most
