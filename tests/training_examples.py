"""A small network with everything that training must not disturb, and data that it can learn from."""

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from subsense.model.adapt import adapt
from subsense.model.robust import RobustModel

SPEC = {"rgb": "4", "depth": "6", "imu": "3"}
CLASSES = 3


class Small(nn.Module):
    """Fuse three modalities by a sum; BatchNorm and Dropout show whether they were left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth, self.imu = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(3, 8)
        self.norm, self.drop, self.head = nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES)

    def forward(self, rgb: Tensor, depth: Tensor, imu: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(functional.gelu(self.rgb(rgb) + self.depth(depth) + self.imu(imu)))))


class Noisy(Dataset[Any]):
    """Augment with every kind of random number that a data set may draw."""

    def __init__(self, num_rows: int = 48, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(5)
        self.target = torch.randint(CLASSES, (num_rows,), generator=generator)
        one_hot = functional.one_hot(self.target, CLASSES).float()
        sizes = {"rgb": 4, "depth": 6, "imu": 3}
        self.inputs = {
            name: one_hot @ torch.randn(CLASSES, size, generator=generator)
            + 0.3 * torch.randn(num_rows, size, generator=generator)
            for name, size in sizes.items()
        }
        self.noise = noise

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, row: int) -> tuple[dict[str, Tensor], Tensor]:
        shift = self.noise * (random.random() + float(np.random.rand()) + torch.rand(1))
        return {name: value[row] + shift for name, value in self.inputs.items()}, self.target[row]


@cache
def _weights() -> dict[str, Tensor]:
    """Train the network on everything, by hand."""
    inputs, target = whole_batch()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Small()
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            functional.cross_entropy(network(**inputs), target).backward()
            optimizer.step()
    return network.state_dict()


def make_network() -> Small:
    """Make the network, trained on everything; always the same weights."""
    with torch.random.fork_rng():
        network = Small()
    network.load_state_dict(_weights())
    return network


def make_robust(**options: Any) -> RobustModel:
    """Adapt that network."""
    return adapt(make_network(), SPEC, **options)


def make_loader(num_rows: int = 48, batch_size: int = 8, noise: float = 0.1, **options: Any) -> DataLoader[Any]:
    """Make a shuffled loader with augmentation."""
    return DataLoader(Noisy(num_rows, noise), batch_size=batch_size, shuffle=True, **options)


def ordered_loader(batch_size: int) -> DataLoader[Any]:
    """Make a loader without anything random."""
    return DataLoader(Noisy(noise=0.0), batch_size=batch_size)


def whole_batch(num_rows: int = 48) -> tuple[dict[str, Tensor], Tensor]:
    """Give all data as one batch, without augmentation."""
    data = Noisy(num_rows)
    return dict(data.inputs), data.target


def adapters(robust: RobustModel) -> dict[str, Tensor]:
    """Copy the adapters."""
    return {name: value.detach().clone() for name, value in robust.adapter_parameters().items()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Say whether tensors agree in every bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
