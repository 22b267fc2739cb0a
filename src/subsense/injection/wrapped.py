"""What stands between a network and its layers, so that hooks don't reach them or what they reach isn't the layer.

Each is refused with what to do instead; none is skipped in silence.
"""

from __future__ import annotations

import torch
from torch import nn

from subsense.errors import PlanError
from subsense.support.torch_private import loaded, was_compiled

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
        "it splits the weights between processes; adapt the network before it is wrapped, and use plain processes: "
        "adapters are small"
    ),
    "torch.distributed.fsdp:FSDPModule": (
        "`fully_shard` splits its weights between processes; adapt the network without it, and use plain processes: "
        "adapters are small"
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


_SHARDED = ("torch.distributed.fsdp:FullyShardedDataParallel", "torch.distributed.fsdp:FSDPModule")
_DISTRIBUTED = ("torch.distributed.tensor:DTensor",)


def check_unsharded(model: nn.Module) -> None:
    """Raise `PlanError` where an adapted network, or its adapters, were split between processes after `adapt`."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    wrappers, tensors = (tuple(loaded(dict.fromkeys(places, ""))) for places in (_SHARDED, _DISTRIBUTED))
    for path, module in model.named_modules():
        own = [*module.parameters(recurse=False)]
        if isinstance(module, wrappers) or any(isinstance(one, tensors) for one in own):
            raise PlanError(
                f"{path or 'the model'} ({type(module).__name__}): its weights were split between processes after "
                "`adapt` (fully_shard, FSDP or a DTensor), which adapters can't work within: processes would train "
                "different sets. Adapt the network whole in every process, and use plain processes: subsense.train, or "
                "DistributedDataParallel around the model that `adapt` gave; adapters are small"
            )


def _compiling(module: nn.Module) -> str | None:
    if not was_compiled(module):
        return None
    return "`compile()` was called on it; make the network without, and compile the model that `adapt` gives"


def check_materialised(network: nn.Module) -> None:
    """Raise `PlanError` where a parameter or buffer has no values yet."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            raise PlanError(
                f"{name} is on the meta device and has no values yet; load the network's weights before adapting it "
                "(`subsense.plan` works without)"
            )
