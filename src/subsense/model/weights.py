"""The weights on which adapter sets were trained: sets are right for these alone, so a change afterwards is told."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from subsense.errors import OtherNetwork
from subsense.support.torch_private import is_sharded, version_of

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
