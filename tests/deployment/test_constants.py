"""What no input reaches is computed once, where it is one row repeated; the oracle is the module that was exported."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from subsense import FoldError
from subsense.deployment.constants import fold_constants
from subsense.deployment.export import trace

aten = torch.ops.aten
ROWS = (1, 2, 3, 4, 7, 16)


class Absent(nn.Module):
    """Add to an input (row, 4) what depends on its number of rows alone."""

    def __init__(self, make: Callable[["Absent", int], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make = make
        self.linear, self.deep = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm, self.statistics = nn.LayerNorm(4), nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.make(self, x.shape[0])


def encoded(net: Absent, rows: int) -> Tensor:
    return net.norm(torch.relu(net.linear(torch.zeros(rows, 4))))


def token(net: Absent, rows: int) -> Tensor:
    return net.linear.bias.expand(rows, 4).contiguous() * 2


def sequence_first(net: Absent, rows: int) -> Tensor:
    return net.norm(net.linear(torch.zeros(5, rows, 4)) + torch.arange(5)[:, None, None]).mean(0)


def attended(net: Absent, rows: int) -> Tensor:
    tokens = net.linear(torch.ones(rows, 5, 4)) + torch.arange(20.0).view(1, 5, 4)
    return net.attention(tokens, tokens, tokens)[0].mean(1)


def in_place(net: Absent, rows: int) -> Tensor:
    result = torch.zeros(rows, 4)
    result[:, 1:3] = net.linear(torch.ones(rows, 4))[:, :2]
    return net.norm(result.relu_())


def centred(net: Absent, rows: int) -> Tensor:
    encoding = net.linear(torch.ones(rows, 4))
    return encoding - 0.5 * encoding.mean(0)


def masked(net: Absent, rows: int) -> Tensor:
    scores = net.linear(torch.ones(rows, 4)).masked_fill(torch.tensor([True, False, False, True]), -torch.inf)
    return scores.softmax(-1)


def no_rows(net: Absent, rows: int) -> Tensor:
    return net.norm(net.linear.weight @ net.deep.weight).mean(0)


def dropped_out(net: Absent, rows: int) -> Tensor:
    return nn.functional.dropout(net.linear(torch.ones(rows, 4)), 0.5, net.training)


def inner(net: Absent, rows: int) -> Tensor:
    """Have rows and windows on one axis, in this order; rows outermost."""
    windows = (torch.ones(rows, 3, 4) * torch.arange(3)[:, None]).reshape(rows * 3, 4)
    return net.linear(windows).view(rows, 3, 4)[:, 1]


CONSTANT = [encoded, token, sequence_first, attended, in_place, centred, masked, no_rows, dropped_out, inner]


@pytest.mark.parametrize("make", CONSTANT, ids=lambda make: make.__name__)
def test_what_is_one_row_repeated_is_computed_once(make: Callable[[Absent, int], Tensor]) -> None:
    network = Absent(make).eval()
    folded = fold(network)
    assert [*dict(folded.named_parameters())] == []
    assert operations(folded) <= {aten.add.Tensor, aten.expand.default, aten.sym_size.int}
    assert_equal_on_all_rows(folded, network)


def counted(net: Absent, rows: int) -> Tensor:
    return net.linear(torch.ones(rows, 4) * rows)


def numbered(net: Absent, rows: int) -> Tensor:
    return net.linear(torch.arange(rows).float()[:, None].expand(rows, 4))


def numbered_late(net: Absent, rows: int) -> Tensor:
    """Be alike on few rows: no more than the graph can tell that there are others."""
    return net.linear((torch.arange(rows) // 5).float()[:, None].expand(rows, 4))


def summed(net: Absent, rows: int) -> Tensor:
    return net.linear(torch.ones(rows, 4)).sum(0)


def accumulated(net: Absent, rows: int) -> Tensor:
    return net.linear(torch.ones(rows, 4)).cumsum(0)


def appended(net: Absent, rows: int) -> Tensor:
    return torch.cat([net.linear(torch.ones(rows, 4)), net.linear(torch.zeros(1, 4))])[1:]


def rarely_drawn(net: Absent, rows: int) -> Tensor:
    return net.linear((torch.rand(rows, 4) < 1e-7).float())


KEPT = {
    counted: aten.linear.default,
    numbered: aten.arange.default,
    numbered_late: aten.arange.default,
    summed: aten.sum.dim_IntList,
    accumulated: aten.cumsum.default,
    appended: aten.cat.default,
    rarely_drawn: aten.rand.default,
}


@pytest.mark.parametrize("make", KEPT, ids=lambda make: make.__name__)
def test_what_is_not_stays_in_the_graph(make: Callable[[Absent, int], Tensor]) -> None:
    network = Absent(make).eval()
    folded = fold(network)
    assert KEPT[make] in operations(folded)
    assert_equal_on_all_rows(folded, network)


def test_what_comes_before_it_is_computed_once() -> None:
    network = Absent(lambda net, rows: net.deep(net.linear(torch.ones(rows, 4))).cumsum(0)).eval()
    folded = fold(network)
    assert aten.linear.default not in operations(folded)
    assert_equal_on_all_rows(folded, network)


def test_rows_inside_of_windows_are_not_taken_for_rows_outside() -> None:
    """Each window has numbers of its own, so that the order of windows and rows on the axis counts."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = True
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.shape[0]
            absent = torch.arange(12.0).view(3, 1, 4) if self.inner else torch.arange(12.0).view(1, 3, 4)
            sizes = (3, rows, 4) if self.inner else (rows, 3, 4)
            return x.repeat(3, 1) * self.linear(absent.expand(sizes).reshape(rows * 3, 4))

    network = Windows().eval()
    folded = fold(network)
    assert aten.linear.default in operations(folded)
    assert_equal_on_all_rows(folded, network)
    network.inner = False
    folded = fold(network)
    assert aten.linear.default not in operations(folded)
    assert aten.repeat.default in operations(folded)
    assert_equal_on_all_rows(folded, network)


@pytest.mark.parametrize("draw", [lambda rows: torch.rand(rows, 4), lambda rows: torch.rand(1, 4).expand(rows, 4)])
def test_what_is_random_is_drawn_in_each_call(draw: Callable[[int], Tensor]) -> None:
    folded = fold(Absent(lambda net, rows: net.linear(draw(rows))).eval())
    x = torch.zeros(3, 4)
    assert not torch.equal(folded(x), folded(x))


def test_an_output_may_be_written_into() -> None:
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            absent = self.linear(torch.ones(x.shape[0], 4))
            return x + 1, absent, self.linear.weight

    network = Outputs().eval()
    folded = fold(network)
    expected = [tensor.clone() for tensor in network(torch.zeros(1, 4))]
    for tensor in folded(torch.zeros(1, 4)):
        tensor.fill_(7.0)
    for tensor, right in zip(folded(torch.zeros(1, 4)), expected, strict=True):
        torch.testing.assert_close(tensor, right)


def test_a_network_that_changes_itself_is_refused() -> None:
    def counting(net: Absent, rows: int) -> Tensor:
        net.count += 1
        return net.linear(net.count.expand(rows, 4))

    with pytest.raises(FoldError, match="drop_absent: the network changes 'count' in each call"):
        fold(Absent(counting).eval())
    with pytest.raises(FoldError, match="drop_absent: the network changes 'statistics"):
        fold(Absent(lambda net, rows: net.statistics(torch.ones(rows, 4))).train())


def test_what_cannot_run_on_one_row_is_refused() -> None:
    def second(net: Absent, rows: int) -> Tensor:
        return net.linear(torch.ones(rows, 4).index_select(0, torch.tensor([0, 1])).mean(0))

    with pytest.raises(FoldError, match="drop_absent: what is absent can't be computed for 1 rows"):
        fold(Absent(second).eval())


def fold(network: nn.Module) -> fx.GraphModule:
    return fold_constants(trace(network, (torch.randn(2, 4),), {}, free_batch=True))


def operations(module: fx.GraphModule) -> set[object]:
    return {node.target for node in module.graph.nodes if node.op == "call_function"}


def assert_equal_on_all_rows(folded: nn.Module, network: nn.Module) -> None:
    with torch.no_grad():
        for rows in ROWS:
            x = torch.randn(rows, 4)
            torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-6)
