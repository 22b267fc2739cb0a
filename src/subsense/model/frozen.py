"""What `adapt` changes on a network until it is given back, and what nobody else may change meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from subsense.errors import OtherNetwork, PlanError
from subsense.injection.fused_attention import plain_attention
from subsense.modalities.inputs import Filled
from subsense.support.torch_private import NormBase, is_sharded, version_of


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


Versions = dict[str, tuple[int, int]]
"""Parameter -> which object it is, and how often that was changed in place."""


class TrainedOn:
    """Know the weights on which sets were trained.

    Looking costs a few microseconds; the fingerprint is made anew where something was written to. Weights that are cast
    to another dtype, or moved, count as the same.

    Args:
        network: whose weights; one that is split between processes, or not materialised, isn't looked at.
        fingerprint: makes its fingerprint.
    """

    def __init__(self, network: nn.Module, fingerprint: Callable[[], str]) -> None:
        self.network, self.fingerprint = network, fingerprint
        self.versions: Versions | None = None
        self.found = ""

    def note(self, found: str | None = None) -> None:
        """Remember the weights as they are; `found`: their fingerprint, where it is known."""
        versions = self._look()
        if versions is not None and (found is not None or versions != self.versions):
            self.found = found or self.fingerprint()
        self.versions = versions

    def forget(self) -> None:
        """Know nothing any more."""
        self.versions = None

    def check(self) -> None:
        """Raise `OtherNetwork` where weights were changed since."""
        versions = self._look()
        if self.versions is None or versions is None or versions == self.versions:
            return
        if self.fingerprint() == self.found:
            self.versions = versions
            return
        changed = [name for name, one in versions.items() if self.versions.get(name) != one]
        raise OtherNetwork(
            f"the network's weights were changed after its adapter sets were trained ({len(changed)} parameters, "
            f"{', '.join(changed[:2])}{', ...' * (len(changed) > 2)}), so the sets are not those of this network: load "
            "the weights back; or train or calibrate again; or say by mark_trained(robust.trained) that they belong "
            "together"
        )

    def _look(self) -> Versions | None:
        parameters = dict(self.network.named_parameters())
        if is_sharded(self.network) or any(one.is_meta or one.is_inference() for one in parameters.values()):
            return None
        return {name: (id(one), version_of(one)) for name, one in parameters.items()}
