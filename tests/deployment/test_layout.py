"""What is rearranged at once is what was rearranged step by step; the oracles are torch's own steps."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from subsense.deployment.constants import fold_constants
from subsense.deployment.export import trace
from subsense.deployment.layout import Arrangement, Part, rearrange

aten = torch.ops.aten
STEPS = (aten.reshape.default, aten.permute.default, aten.select.int, aten.transpose.int, aten.clone.default)
LINEAR = aten.linear.default
ROWS = sympy.Symbol("rows", integer=True, positive=True)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_chain_of_steps_is_few_steps(data: st.DataObject) -> None:
    """Draw a chain; an axis of 5 rows stands for the batch."""
    x = torch.arange(5 * 4 * 6 * 1 * 2).view(5, 4, 6, 1, 2)
    sizes = (ROWS, *map(sympy.Integer, x.shape[1:]))
    parts = [Part(size) for size in sizes]
    axes = tuple((part,) if part.size != 1 else () for part in parts)
    chained = Arrangement(fx.Graph().placeholder("x"), sizes, tuple(part for axis in axes for part in axis), axes)
    expected = x
    for _ in range(data.draw(st.integers(1, 6))):
        chained, expected = draw_step(data, chained, expected)
    found, steps = x, chained.steps()
    for target, args in steps:
        found = target(found, *args)
    assert torch.equal(found, expected)
    assert len(steps) <= 3 + len(chained.picks)
    assert tuple(int(size.subs(ROWS, 5)) for size in chained.sizes) == expected.shape


def draw_step(data: st.DataObject, chained: Arrangement, x: Tensor) -> tuple[Arrangement, Tensor]:
    kind = data.draw(st.sampled_from(["permute", "select", "join", "split", "unsqueeze"]))
    axis = data.draw(st.integers(0, x.dim() - 1)) if x.dim() else 0
    if kind == "permute":
        order = data.draw(st.permutations(range(x.dim())))
        return chained.permute(order), x.permute(order)
    sizes, numbers = list(chained.sizes), list(x.shape)
    if kind == "select" and x.dim() and sizes[axis].is_Integer:
        index = data.draw(st.integers(-numbers[axis], numbers[axis] - 1))
        selected = chained.select(axis, index)
        return (chained, x) if selected is None else (selected, x.select(axis, index))
    if kind == "join" and axis + 1 < x.dim():
        sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
        numbers[axis : axis + 2] = [numbers[axis] * numbers[axis + 1]]
    elif kind == "split" and x.dim() and numbers[axis] % 2 == 0:
        first = data.draw(st.booleans())
        halves = [2, numbers[axis] // 2], [sympy.Integer(2), sizes[axis] / 2]
        numbers[axis : axis + 1], sizes[axis : axis + 1] = halves if first else (half[::-1] for half in halves)
    elif kind == "unsqueeze":
        sizes.insert(axis, sympy.Integer(1))
        numbers.insert(axis, 1)
    regrouped = chained.regroup(sizes)
    return (chained, x) if regrouped is None else (regrouped, x.reshape(numbers))


class Attends(nn.Module):
    """Attend to itself, from a packed projection."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        return x + self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_packed_attention_takes_few_steps(batch_first: bool) -> None:
    network = stirred(Attends(batch_first))
    steps = count(assert_same(network, torch.randn(4, 5, 8).double()))
    assert [steps[one] for one in STEPS[:3]] == [2, 2 if batch_first else 4, 3]
    assert not any(steps[one] for one in STEPS[3:])


class Transposes(nn.Module):
    """Transpose before a linear layer: rows, the last axis, or back to how they lie."""

    def __init__(self, axes: tuple[int, int], back: bool = False) -> None:
        super().__init__()
        self.axes, self.back = axes, back
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x.transpose(0, 1)) if self.back else torch.relu(x)
        return self.linear(y.transpose(*self.axes))


@pytest.mark.parametrize(
    ("network", "order"),
    [
        (Transposes((0, 1)), [LINEAR, aten.permute.default]),
        (Transposes((-3, -2)), [LINEAR, aten.permute.default]),
        (Transposes((1, 2)), [aten.permute.default, LINEAR]),
        (Transposes((0, 1), back=True), [LINEAR]),
    ],
)
def test_rows_are_transposed_after_a_linear_layer(network: nn.Module, order: list[Any]) -> None:
    rearranged = assert_same(stirred(network), torch.randn(4, 4, 4).double())
    assert [node.target for node in rearranged.graph.nodes if node.target in (LINEAR, *STEPS)] == order


class Runs(nn.Module):
    """Run a function of an input (rows, 4, 6) and a layer."""

    def __init__(self, function: Callable[["Runs", Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


CHAINS: dict[str, tuple[Callable[[Runs, Tensor], Any], int]] = {
    "there and back": (lambda net, x: x.transpose(1, 2).relu().transpose(1, 2) * 2, 0),
    "rows into another axis": (lambda net, x: x.flatten(0, 1).unflatten(0, (-1, 4)) + 1, 0),
    "read by two": (lambda net, x: (y := x.transpose(1, 2).exp()) + y.flatten(1).view(-1, 6, 4), 1),
    "multiplied by itself": (lambda net, x: (y := x.transpose(1, 2)) * y, 1),
    "all of an axis": (lambda net, x: x[:, 0:4].expand(-1, 4, 6)[..., :] + x[:, :1, :1], 0),
    "one of one": (lambda net, x: x[:, :1].squeeze(1).unsqueeze(-1).select(2, 0) + 1, 1),
    "one of several": (lambda net, x: x.transpose(1, 2).relu()[:, -2] + x[:, 0, :4], 2),
    "several of an axis of two parts": (lambda net, x: x.flatten(1)[:, 3] + 1, 2),
    "rows with numbers": (lambda net, x: x.mT + torch.arange(x.shape[0])[:, None, None], 2),
    "as many as there are": (lambda net, x: x.mT[x.mT > 0].relu().unsqueeze(0).mT.exp().sum(), 3),
    "a norm over two axes": (
        lambda net, x: nn.functional.layer_norm(x.view(-1, 2, 2, 6).transpose(1, 2), (2, 6)) + 1,
        2,
    ),
    "a layer of itself": (
        lambda net, x: nn.functional.linear(y := x.transpose(0, 1).flatten(0, 1), y).sum(1),
        2,
    ),
    "rows by rows": (lambda net, x: (y := x.flatten(1)).mm(y.t()).unsqueeze(0).transpose(1, 2).sum(2), 4),
    "a rearranged weight": (lambda net, x: nn.functional.linear(x, net.linear.weight.t().reshape(2, 18).view(6, 6)), 2),
    "sizes that do not fit": (lambda net, x: x.transpose(0, 1).reshape(-1).view(6, 4, -1).sum((0, 1)), 3),
    "several outputs": (lambda net, x: (x.transpose(0, 1) * 2, net.linear(x.transpose(0, 1)).transpose(0, 1)), 1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_graph_gives_what_it_gave(name: str) -> None:
    function, at_most = CHAINS[name]
    steps = count(assert_same(stirred(Runs(function)), torch.randn(3, 4, 6).double()))
    assert sum(steps[one] for one in STEPS) <= at_most


def test_a_copy_that_is_given_away_stays_one() -> None:
    network = stirred(Runs(lambda net, x: x.clone(memory_format=torch.contiguous_format).view(-1, 24)))
    x = torch.ones(2, 4, 6).double()
    rearranged(network, x)(x).fill_(7.0)
    assert x.eq(1).all()


def test_copies_that_are_given_away_are_two() -> None:
    network = stirred(Runs(lambda net, x: ((y := x * 2).view(-1, 24).clone(), y.view(-1, 24).clone())))
    first, second = rearranged(network, torch.ones(2, 4, 6).double())(torch.ones(2, 4, 6).double())
    first.fill_(7.0)
    assert second.eq(2).all()


def stirred(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand_like(parameter))
    return network.double().eval().requires_grad_(False)


def rearranged(network: nn.Module, x: Tensor) -> fx.GraphModule:
    return rearrange(fold_constants(trace(network, (x,), {}, free_batch=True)))


def assert_same(network: nn.Module, x: Tensor) -> fx.GraphModule:
    module = rearranged(network, x)
    for rows in (1, 2, 4, 5):
        some = torch.randn(rows, *x.shape[1:], dtype=x.dtype)
        torch.testing.assert_close(module(some), network(some), rtol=1e-10, atol=1e-12)
    rows = next(node for node in module.graph.nodes if node.op == "placeholder").meta["val"].shape[0]
    assert rows.node.expr.is_Symbol  # no step that was tried has fixed it
    return module


def count(module: fx.GraphModule) -> Counter[Any]:
    return Counter(node.target for node in module.graph.nodes)
