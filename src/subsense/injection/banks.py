"""The trained parameters of all sites, each stacked over the bank rows, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subsense.adapters.base import Adapter
from subsense.injection.planning import Plan, Site
from subsense.modalities.names import attribute_name
from subsense.support.modules import device_of


class Banks(nn.Module):
    """Hold the trained parameters of all sites, each stacked: (bank row, ...).

    Args:
        plan: the sites.
        tensors: the banks by name; see `start_banks`.
        like: the network; banks are on its device.
    """

    def __init__(self, plan: Plan, tensors: Mapping[str, Tensor], like: nn.Module) -> None:
        super().__init__()
        device = device_of(like)
        names = bank_names(plan)
        self.names = tuple(names)
        self._attributes: dict[tuple[str, str], dict[str, str]] = {}
        self._by_channel: list[str] = []
        for name, (site, adapter, parameter) in names.items():
            attribute = attribute_name(name)
            self.register_parameter(attribute, nn.Parameter(tensors[name].to(device)))
            self._attributes.setdefault((site.key, adapter.name), {})[parameter] = attribute
            if adapter in site.by_channel:
                self._by_channel.append(attribute)

    @property
    def dtype(self) -> torch.dtype:
        """Give the dtype of all banks."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Give the device of all banks."""
        return next(self.parameters()).device

    def named(self) -> dict[str, nn.Parameter]:
        """Give the banks by name: ``site:adapter:parameter``."""
        return dict(zip(self.names, self.parameters(), strict=True))

    def by_channel(self) -> list[nn.Parameter]:
        """Give the banks of the adapters that scale and shift channels."""
        banks: dict[str, Any] = self._parameters
        return [banks[attribute] for attribute in self._by_channel]

    def of(self, site: Site, adapter: Adapter) -> dict[str, Tensor]:
        """Give the banks of one adapter at one site."""
        banks: dict[str, Any] = self._parameters  # past `Module.__getattr__`, since it is asked at every site
        return {name: banks[attribute] for name, attribute in self._attributes[site.key, adapter.name].items()}


def start_banks(plan: Plan, num_rows: int, like: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Give banks at the identity, on the CPU.

    Args:
        plan: the sites.
        num_rows: number of bank rows.
        like: the network; banks are float64 where it is, and float32 otherwise.
        generator: where starts are drawn from.
    """
    dtype = bank_dtype(like)
    banks = {}
    for name, (site, adapter, parameter) in bank_names(plan).items():
        banks[name] = torch.empty((num_rows, *site.adapters[adapter][parameter]), dtype=dtype)
        adapter.start(parameter, banks[name], generator)
    return banks


def bank_names(plan: Plan) -> dict[str, tuple[Site, Adapter, str]]:
    """Name every bank of a plan: ``site:adapter:parameter``."""
    return {
        f"{site.key}:{adapter.name}:{name}": (site, adapter, name)
        for site in plan.sites
        for adapter, shapes in site.adapters.items()
        for name in shapes
    }


def site_of(name: str) -> str:
    """Give the site of a bank's name; a module's own name may hold colons.

    >>> site_of("encoder.0:ssf:scale")
    'encoder.0'
    """
    return name.rsplit(":", 2)[0]


def bank_dtype(network: nn.Module) -> torch.dtype:
    """Give the dtype of a network's banks: float64 where it has parameters of it, and float32 otherwise."""
    dtypes = {parameter.dtype for parameter in network.parameters()}
    return torch.float64 if torch.float64 in dtypes else torch.float32
