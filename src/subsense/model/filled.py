"""A network on filled inputs, without adapters: what an adapted one is compared with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from subsense.modalities import Modalities
from subsense.modalities.calling import Call
from subsense.modalities.filling import Filling
from subsense.modalities.inputs import Filled, Inputs, read


class FilledNetwork(nn.Module):
    """Call a network on inputs of which some are missing, with stand-ins and without adapters.

    Args:
        network: the network.
        fill: makes the stand-ins.
        call: how the network is called.
    """

    def __init__(self, network: nn.Module, fill: Filling, call: Call) -> None:
        super().__init__()
        self.network, self.fill, self.call = network, fill, call

    @property
    def modalities(self) -> Modalities:
        """Give the declared modalities."""
        return self.fill.modalities

    def fill_in(self, inputs: Inputs, present: Tensor | None = None) -> Filled:
        """Give every modality's tensors, stand-ins where they are missing."""
        filled: Filled = self.fill(read(self.modalities, inputs, present))
        return filled

    def forward(self, inputs: Inputs, present: Tensor | None = None) -> Any:
        """Give the network's output on filled inputs; see `RobustModel.forward`."""
        return self.call(self.network, self.modalities, self.fill_in(inputs, present))
