"""A network on filled inputs, without adapters: what an adapted one is compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subsense.modalities import Modalities
from subsense.modalities.calling import Call
from subsense.modalities.filling import Filling
from subsense.modalities.inputs import Filled, Inputs, read
from subsense.model.rows import OUTPUT
from subsense.routing.groups import output_names, output_tensors, run_grouped
from subsense.routing.locate import locate
from subsense.support.modules import evaluating


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
        self._names: list[Any] = []

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
        batch = read(self.modalities, inputs, present)
        filled = self.fill(batch)
        if batch.code is not None or not self.call.needs_groups or torch.compiler.is_compiling():
            return self.call(self.network, self.modalities, filled, batch.present)
        codes = batch.codes(self.modalities)
        some = self.call.fullest(self.modalities, filled, codes)
        places = locate(self._observe, some, OUTPUT).placements.get(OUTPUT, ())

        def run(part: Filled, code: int) -> Any:
            return self.call(self.network, self.modalities, self.call.without(self.modalities, part, code))

        return run_grouped(run, filled, codes, places, self._names, self.call.why_groups)

    def _observe(self, filled: Filled) -> dict[str, list[Tensor]]:
        with evaluating(self.network), torch.no_grad():
            output = self.call(self.network, self.modalities, filled)
        self._names = output_names(output)
        return {OUTPUT: output_tensors(output)}
