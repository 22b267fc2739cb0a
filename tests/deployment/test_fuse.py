"""What is merged in a graph gives what it gave; the oracle is the module that was exported."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from subsense.deployment.constants import fold_constants
from subsense.deployment.export import trace
from subsense.deployment.fuse import merge

aten = torch.ops.aten
NORM = aten._native_batch_norm_legit_no_training.default
SIZES = (5, 6, 7)

CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "1d": lambda: nn.Sequential(nn.Conv1d(4, 6, 3, padding="same"), nn.BatchNorm1d(6)),
    "2d, no bias": lambda: nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
    "2d, groups, no affine": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6, affine=False, eps=0.1)
    ),
    "3d": lambda: nn.Sequential(nn.Conv3d(4, 2, 2), nn.BatchNorm3d(2)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "3d" else []) for name in CONVOLUTIONS]
)
def test_a_convolution_and_its_norm_are_one_convolution(name: str) -> None:
    network = stirred(CONVOLUTIONS[name]())
    x = torch.randn(3, 4, *SIZES[: int(name[0])], dtype=torch.float64)
    merged = merged_graph(network, x)
    assert NORM not in operations(merged)
    torch.testing.assert_close(merged(x), network(x), rtol=1e-10, atol=1e-12)
    assert [key.rpartition("_")[2] for key in merged.state_dict()] == ["weight", "bias"]


class Twice(nn.Module):
    """Use a convolution's output before the norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return self.norm(y) + y


@pytest.mark.parametrize("make", [Twice, lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3))])
def test_other_norms_stay(make: Callable[[], nn.Module]) -> None:
    network, x = stirred(make()), torch.randn(3, 4, 5, 6, dtype=torch.float64)
    merged = merged_graph(network, x)
    assert NORM in operations(merged)
    torch.testing.assert_close(merged(x), network(x))


class Joins(nn.Module):
    """Join an input (rows, ..., 4) with what doesn't depend on it, along an axis, ahead of a linear layer."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int = 12, bias: bool = True) -> None:
        super().__init__()
        self.join = join
        self.linear, self.other = nn.Linear(width, 3, bias=bias), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.join(x, self.other(torch.ones(x.shape, dtype=x.dtype))))


JOINS = {
    "two": (lambda x, row: torch.cat([x, row, x], -1), 12, True, 1),
    "one": (lambda x, row: torch.cat([row, x, row], -1), 12, True, 0),
    "no bias": (lambda x, row: torch.cat([row, x], -1), 8, False, 0),
    "rows": (lambda x, row: torch.cat([x, row], 1), 4, True, 1),
    "rows that differ": (lambda x, row: torch.cat([x, row * torch.arange(5.0)[:, None]], -1), 8, True, 1),
    "nothing else": (lambda x, row: torch.cat([row, row], -1) + 0 * x[..., :1], 8, True, 0),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_linear_layer_reads_no_constant_row(name: str) -> None:
    join, width, bias, num_joined = JOINS[name]
    network, x = stirred(Joins(join, width, bias)), torch.randn(3, 5, 4, dtype=torch.float64)
    merged = merged_graph(network, x)
    assert sum(node.target is aten.cat.default for node in merged.graph.nodes) == num_joined
    torch.testing.assert_close(merged(x), network(x), rtol=1e-10, atol=1e-12)


def stirred(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return network.double().eval().requires_grad_(False)


def merged_graph(network: nn.Module, x: Tensor) -> fx.GraphModule:
    return merge(fold_constants(trace(network, (x,), {}, free_batch=True)))


def operations(module: fx.GraphModule) -> set[object]:
    return {node.target for node in module.graph.nodes}
