"""What stands between a network and its layers, so that hooks don't reach them or what they reach isn't the layer.

Each is refused with what to do instead; none is skipped in silence.
"""

from __future__ import annotations

from torch import nn

from subsense.errors import PlanError

_ADAPT_WITHIN = "adapt the network inside it (`.module`), then wrap the model that `adapt` gives"
_WRAPPERS = {
    "torch.nn.parallel.distributed.DistributedDataParallel": (
        f"its processes would not share the adapters' gradients; {_ADAPT_WITHIN}"
    ),
    "torch.nn.parallel.data_parallel.DataParallel": (
        "it splits the batch between copies, which would not know their rows; adapt the network inside it (`.module`), "
        "and use one process for each device"
    ),
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": (
        "it splits the weights between processes; adapt the network before it is wrapped, and use plain processes: "
        "adapters are small"
    ),
    "torch.distributed.fsdp.FSDPModule": (
        "`fully_shard` splits its weights between processes; adapt the network without it, and use plain processes: "
        "adapters are small"
    ),
    "torch._dynamo.eval_frame.OptimizedModule": (
        "it is compiled already, and would be compiled again for each combination; adapt the network as it was before "
        "torch.compile, and compile the model that `adapt` gives"
    ),
}


def check_wrappers(network: nn.Module) -> None:
    """Raise `PlanError` where a network, or a part of it, is wrapped in a way that adapters can't work within."""
    modules = list(network.named_modules())
    wrapping = {cls: _wrapping(cls) for cls in {type(module) for _, module in modules}}
    for path, module in modules:
        if reason := wrapping[type(module)] or _compiling(module):
            raise PlanError(f"{path or 'the network'} ({type(module).__name__}): {reason}")


def _wrapping(cls: type) -> str | None:
    names = (f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def _compiling(module: nn.Module) -> str | None:
    if getattr(module, "_compiled_call_impl", None) is None:
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
