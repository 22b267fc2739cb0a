"""What `adapt` changes on a network: it is frozen and in eval mode until it is given back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from subsense.errors import PlanError
from subsense.injection.fused_attention import plain_attention
from subsense.modalities.inputs import Filled
from subsense.support.torch_private import NormBase, is_sharded


class Before:
    """Remember what `adapt` changes on a network: modes, and which parameters ask for a gradient."""

    def __init__(self, network: nn.Module) -> None:
        modules = dict(network.named_modules())
        self.modes = {module: module.training for module in modules.values()}
        self.network = network
        self.trainable = {parameter: parameter.requires_grad for parameter in network.parameters()}
        self.named = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
        self.statistics = {
            path: module
            for path, module in modules.items()
            if isinstance(module, NormBase) and module.track_running_stats
        }

    def restore(self) -> None:
        """Put it back."""
        for module, mode in self.modes.items():
            module.training = mode
        for name, parameter in self.network.named_parameters():  # `fully_shard` puts others in the place of those
            parameter.requires_grad_(self.named.get(name, parameter.requires_grad))

    def check_modes(self) -> None:
        """Raise `PlanError` where the network was put into training mode by hand, so that its statistics would move."""
        for path, module in self.statistics.items():
            if module.training:
                raise PlanError(
                    f"{path or 'the network'} ({type(module).__name__}) is in training mode, in which a call would "
                    "change its running statistics; an adapted network stays in eval mode: call train() and eval() on "
                    "the model that `adapt` gave, not on the network, or network.eval() now"
                )

    @contextmanager
    def kernels(self, filled: Filled) -> Iterator[None]:
        """Let torch take the kernels that it took for the network before it was frozen, so that every bit is the same.

        Torch chooses by `requires_grad` (how a matmul folds its axes) and by grad mode (fused attention). No graph of
        the network is recorded, unless a gradient for its inputs is asked for: then the kernels are a frozen network's.
        """
        with ExitStack() as stack:
            if is_sharded(self.network):  # what is gathered was frozen when it was gathered first
                stack.enter_context(torch.no_grad())
                yield
                return
            if torch.is_grad_enabled() and any(self.trainable.values()):
                stack.enter_context(plain_attention())
            if not torch.is_grad_enabled() or not any(x.requires_grad for parts in filled.values() for x in parts):
                stack.enter_context(torch.no_grad())
                stack.callback(self._ask, dict.fromkeys(self.trainable, False))
                self._ask(self.trainable)
            yield

    def _ask(self, trainable: Mapping[nn.Parameter, bool]) -> None:
        for parameter, wanted in trainable.items():
            parameter.requires_grad_(wanted)
