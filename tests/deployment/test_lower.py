"""A plain module gives what the exported program gives, in the same form, and refuses what that refuses."""

from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from subsense.deployment.constants import fold_constants
from subsense.deployment.export import trace
from subsense.deployment.lower import FUNCTIONS, plain

Pair = namedtuple("Pair", ["first", "second"])


class Tied(nn.Module):
    """Use one weight in two layers, and give the result in a form."""

    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.layers[1].weight = self.layers[0].weight

    def forward(self, inputs: dict[str, Tensor], other: Tensor) -> Any:
        x, y = self.layers[0](inputs["x"]), self.layers[1](inputs["y"]) + other
        forms = {"tensor": x + y, "tuple": (x, y), "dict": {"x": x, "y": y}}
        return (forms | {"nested": [{"x": x}, (y,)], "class": Pair(x, y)})[self.form]


def inputs(rows: int = 2, **changed: Tensor) -> dict[str, Tensor]:
    return {"x": torch.ones(rows, 4), "y": torch.ones(rows, 3, 4)[:, 0]} | changed


def made(network: nn.Module) -> fx.GraphModule:
    return plain(fold_constants(trace(network, (inputs(), torch.ones(2, 4)), {}, free_batch=True)))


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "nested", "class"])
def test_gives_what_the_network_gives_in_its_form(form: str) -> None:
    network = Tied(form).eval()
    module = made(network)
    for rows in (1, 3):
        given = inputs(rows, y=torch.arange(4.0 * rows).view(rows, 4)), torch.ones(rows, 4)
        torch.testing.assert_close(module(*given), network(*given))
        torch.testing.assert_close(module(other=given[1], inputs=given[0]), network(*given))
    assert type(module(*given)) is type(network(*given))


def test_holds_each_weight_once_and_beside_the_others() -> None:
    module = made(Tied())
    assert sorted(name.rpartition("_")[2] for name in module.state_dict()) == ["bias", "bias", "weight"]
    assert [*module.children()] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((inputs(x=torch.ones(2, 5)), torch.ones(2, 4)), r"inputs\['x'\]: expected sizes \(rows, 4\).*\[2, 5\]"),
        ((inputs(), torch.ones(2, 1, 4)), r"other: expected sizes \(rows, 4\).*\[2, 1, 4\]"),
        ((inputs(), torch.ones(1, 4)), "other: expected as many rows as the inputs before it have"),
        ((inputs(0), torch.ones(0, 4)), r"inputs\['x'\]: expected one row at least"),
        ((inputs(z=torch.ones(2, 4)), torch.ones(2, 4)), "inputs: expected 'x', 'y' and nothing else"),
    ],
)
def test_refuses_what_it_is_not_for(given: Any, message: str) -> None:
    module = made(Tied())
    with pytest.raises(AssertionError, match=message):
        module(*given)


class Operates(nn.Module):
    """Do everything for which torch has a quicker function."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.square, self.cube = nn.Conv1d(6, 6, 3), nn.Conv2d(3, 6, 2), nn.Conv3d(3, 3, 1)
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.square(self.cube(x[:, :, None])[:, :, 0])
        x = torch.stack([self.flat(x.select(3, index)) for index in range(4)], 3).div(2).sub(0.5)
        x = F.silu(self.norm(x)) * F.gelu(x, approximate="tanh") + x.sigmoid().tanh()
        x = F.scaled_dot_product_attention(x, x, x).relu()
        x = torch.cat([self.linear(x), x.softmax(-1).matmul(self.linear.weight)], 1).permute(0, 2, 1, 3).flatten(1, 2)
        return torch.bmm(x.mean(1, keepdim=True), x.transpose(1, 2)).reshape(-1, 3, 12)


def test_calls_the_functions_that_torch_has() -> None:
    network, x = Operates().eval().requires_grad_(False), torch.randn(2, 3, 6, 5)
    module = plain(fold_constants(trace(network, (x,), {}, free_batch=True)))
    called = {node.target for node in module.graph.nodes}
    assert not called.intersection(FUNCTIONS)
    assert called.issuperset(FUNCTIONS.values())
    for rows in (1, 2, 4):
        x = torch.randn(rows, 3, 6, 5)
        assert torch.equal(module(x), network(x))


def test_is_compiled_and_exported_as_a_network_is() -> None:
    module = made(Tied())
    given = inputs(), torch.ones(2, 4)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given), module(*given))
    again = trace(module, given, {}, free_batch=True).module()
    torch.testing.assert_close(again(inputs(5), torch.ones(5, 4)), module(inputs(5), torch.ones(5, 4)))
