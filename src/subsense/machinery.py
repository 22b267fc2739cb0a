"""What stands between a network and its layers, so that hooks don't reach them or what they reach isn't the layer.

Each is refused with what to do instead; none is skipped in silence.
"""

from __future__ import annotations

import torch
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
_QUANTISED = ("torch.ao.nn.", "torch.ao.quantization.", "torch.nn.quantized.")


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


def foreign(module: nn.Module) -> str | None:
    """Say why adapters can't act inside a module though it may hold layers; None where they can.

    >>> foreign(torch.jit.script(nn.Linear(2, 2)))
    'it is a TorchScript module, in which no hook acts; use the module that it was made from, or exclude it'
    >>> foreign(nn.Linear(2, 2))
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module, in which no hook acts; use the module that it was made from, or exclude it"
    if _is_quantised(type(module)):
        return (
            "it is quantised, so no scale, shift or low-rank difference can be folded into it; quantise the folded "
            "network instead, or exclude it"
        )
    return None


def strange_tensor(module: nn.Module) -> str | None:
    """Say which parameter of a module is no plain one: sharded, quantised or otherwise computed with by a class."""
    for name, parameter in module._parameters.items():
        kind = type(parameter)
        if parameter is not None and kind not in (nn.Parameter, nn.UninitializedParameter):
            return f"its {name} is a {kind.__name__}, no plain parameter, so nothing can be folded into it; exclude it"
    return None


def _is_quantised(cls: type) -> bool:
    """Say whether a class is of torch's quantisation; observers and fake-quantised stand-ins for layers are, too."""
    return any(base.__module__.startswith(_QUANTISED) for base in cls.__mro__)
