"""What stands between a network and its layers, so that hooks don't reach them or what they reach isn't the layer.

Each is refused with what to do instead; none is skipped in silence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from subsense.errors import PlanError
from subsense.support.torch_private import fully_sharded, loaded, was_compiled

_ADAPT_WITHIN = "adapt the network inside it (`.module`), then wrap the model that `adapt` gives"
_WRAPPERS = {
    "torch.nn.parallel:DistributedDataParallel": (
        f"its processes would not share the adapters' gradients; {_ADAPT_WITHIN}"
    ),
    "torch.nn.parallel:DataParallel": (
        "it splits the batch between copies, which would not know their rows; adapt the network inside it (`.module`), "
        "and use one process for each device"
    ),
    "torch.distributed.fsdp:FullyShardedDataParallel": (
        "it splits the weights between processes without their layers' knowledge; use its successor, "
        "torch.distributed.fsdp.fully_shard"
    ),
    "torch.export.unflatten:UnflattenedModule": (
        "it was made of an exported graph; adapt the network that was exported, and export what `subsense.fold` gives"
    ),
    "torch._dynamo:OptimizedModule": (
        "it is compiled already, and would be compiled again for each combination; adapt the network as it was before "
        "torch.compile, and compile the model that `adapt` gives"
    ),
}


def check_wrappers(network: nn.Module) -> None:
    """Raise `PlanError` where a network, or a part of it, is wrapped in a way that adapters can't work within."""
    wrappers = loaded(_WRAPPERS)
    for path, module in network.named_modules():
        wrapping = (reason for cls, reason in wrappers.items() if isinstance(module, cls))
        if reason := next(wrapping, None) or _compiling(module):
            raise PlanError(f"{path or 'the network'} ({type(module).__name__}): {reason}")
    check_splitting(network)


_WRAPPED_LATER = ("torch.distributed.fsdp:FullyShardedDataParallel",)
_TENSORS = ("torch.distributed.tensor:DTensor",)


def check_splitting(model: nn.Module) -> None:
    """Raise `PlanError` where weights are split between processes otherwise than by `fully_shard`, or adapters are.

    Args:
        model: a network, or the model that `adapt` made of it.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    wrappers, tensors = (tuple(loaded(dict.fromkeys(places, ""))) for places in (_WRAPPED_LATER, _TENSORS))
    kinds, split = fully_sharded(), set[int]()
    for path, module in model.named_modules():
        own: list[Any] = [one for one in module.parameters(recurse=False) if isinstance(one, tensors)]
        name = f"{path or 'the model'} ({type(module).__name__})"
        if isinstance(module, wrappers):
            raise PlanError(f"{name}: wrapped in FSDP after `adapt`; split it by torch.distributed.fsdp.fully_shard")
        if issubclass(type(module), kinds):
            split.update(map(id, module.parameters()))
        if own and any(id(one) not in split or one.device_mesh.ndim > 1 for one in own):
            raise PlanError(
                f"{name}: its weights are split by tensor parallelism (DTensors), so that no process sees a layer's "
                "output with all its channels; split whole layers instead, by torch.distributed.fsdp.fully_shard over "
                "one axis of processes"
            )
        if own and path.split(".")[0] == "banks":
            raise PlanError(f"{name}: the adapters were split, too; they are small: fully_shard(model.network) alone")


def _compiling(module: nn.Module) -> str | None:
    if not was_compiled(module):
        return None
    return "`compile()` was called on it; make the network without, and compile the model that `adapt` gives"


def is_offloaded(network: nn.Module) -> bool:
    """Say whether accelerate's hooks bring a network's weights when they are needed."""
    return any("_hf_hook" in vars(module) for module in network.modules())


def check_materialised(network: nn.Module) -> None:
    """Raise `PlanError` where a parameter or buffer has no values yet."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta and is_offloaded(network):
            raise PlanError(
                f"{name} is offloaded by accelerate, which brings it when its layer is called; adapt the network "
                "before, and offload the network of the model that `adapt` gave: cpu_offload(model.network)"
            )
        if tensor.is_meta:
            raise PlanError(
                f"{name} is on the meta device and has no values yet; load the network's weights before adapting it "
                "(`subsense.plan` works without)"
            )
