"""Networks whose weights `fully_shard` (FSDP2) splits between processes: what has to be gathered, and agreed on.

Each call of such a network is one that all processes make together, so nothing may depend on what one of them has.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subsense.support.torch_private import fully_sharded, is_hook_place, is_of_sharding, whole


def gathered(network: nn.Module) -> nn.Module:
    """Copy a split network into a whole one, of its own classes; every process has to ask, and gets all of it."""
    kinds = fully_sharded()
    parameters = dict.fromkeys([*network.parameters(), *network.buffers()])
    memo: dict[int, Any] = {}
    for one in parameters:
        value = whole(one.detach()).clone()
        memo[id(one)] = nn.Parameter(value, one.requires_grad) if isinstance(one, nn.Parameter) else value
    split = [module for module in network.modules() if isinstance(module, kinds)]
    for module in split:
        plain: type[nn.Module] = type(module).__bases__[1]
        memo[id(module)] = plain.__new__(plain)
    for module in split:
        own = {name: one for name, one in vars(module).items() if not (is_hook_place(name) or is_of_sharding(name))}
        fresh = {name: one for name, one in vars(nn.Module()).items() if is_hook_place(name)}
        vars(memo[id(module)]).update(fresh | copy.deepcopy(own, memo))
    copied: nn.Module = memo[id(network)] if network in split else copy.deepcopy(network, memo)
    for module in copied.modules():
        for name in [name for name in vars(module) if is_of_sharding(name)]:
            del vars(module)[name]
    return copied


def first_ones(filled: Mapping[str, tuple[Tensor, ...]]) -> dict[str, tuple[Tensor, ...]]:
    """Give the first process's inputs, in every process."""
    device = next(iter(filled.values()))[0].device
    box = [{name: tuple(one.cpu() for one in tensors) for name, tensors in filled.items()}]
    torch.distributed.broadcast_object_list(box, src=0)
    return {name: tuple(one.to(device) for one in tensors) for name, tensors in box[0].items()}


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean gradient of all; a parameter without any in all of them stays without."""
    moving = [one for one in parameters if one.requires_grad]
    has = torch.tensor([one.grad is not None for one in moving], device=moving[0].device)
    parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in moving]
    flat = torch.cat([has.to(parts[0].dtype), *(part.flatten() for part in parts)])
    torch.distributed.all_reduce(flat)
    counts, *sums = flat.split([len(moving), *(part.numel() for part in parts)])
    world = torch.distributed.get_world_size()
    for parameter, count, total in zip(moving, counts.tolist(), sums, strict=True):
        parameter.grad = total.view_as(parameter) / world if count else None


class Averaging:
    """Average the gradients of parameters over all processes at the end of each backward pass, while it is on.

    Args:
        parameters: the same in every process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters, self.on, self._asked = list(parameters), True, False
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._ask)

    def _ask(self, parameter: Tensor) -> None:
        if self.on and not self._asked:
            self._asked = True
            torch.autograd.Variable._execution_engine.queue_callback(self._average)

    def _average(self) -> None:
        self._asked = False
        average_gradients(self.parameters)
