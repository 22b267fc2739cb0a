"""Attention classes of the user's own: raw packed parameters, which their own forward multiplies by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import only, row_by_row, snapshot, with_sets
from subsense import AttentionClass, UnsupportedLayer, adapt, fold, load, plan, save
from subsense.testing import check_adapter, check_network

WIDTH = 6
SPEC = {"left": f"T {WIDTH}", "right": f"T {WIDTH}"}


class Attention(nn.Module):
    """Attend as fairseq's class did: sequence first, packed weights, one product where the inputs are the same."""

    def __init__(self, bias: bool = True, add_bias_kv: bool = False) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * WIDTH, WIDTH) / WIDTH**0.5)
        self.register_parameter("in_proj_bias", nn.Parameter(torch.randn(3 * WIDTH)) if bias else None)
        self.out_proj = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.bias_k = nn.Parameter(torch.randn(1, 1, WIDTH)) if add_bias_kv else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if query is key and key is value:
            q, k, v = self.project(query).chunk(3, -1)
        else:
            q = self.project(query, end=WIDTH)
            k, v = self.project(key, WIDTH, 2 * WIDTH), self.project(value, 2 * WIDTH)
        if self.bias_k is not None:
            k, v = (torch.cat([x, self.bias_k.expand(1, x.shape[1], -1)]) for x in (k, v))
        q, k, v = (x.transpose(0, 1) for x in (q * WIDTH**-0.5, k, v))
        weights = torch.softmax(q @ k.transpose(1, 2), -1)
        return self.out_proj((weights @ v).transpose(0, 1)), weights

    def project(self, x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        bias = self.in_proj_bias
        return F.linear(x, self.in_proj_weight[start:end, :], None if bias is None else bias[start:end])


class Network(nn.Module):
    """Look from left to right, then at oneself; (batch, time, feature) outside, time first inside."""

    def __init__(self, make: Callable[[], nn.Module] = Attention) -> None:
        super().__init__()
        self.cross, self.own = make(), make()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = left.transpose(0, 1), right.transpose(0, 1)
        mixed = left + self.cross(left, right, right.clone())[0]
        return (mixed + self.own(mixed, mixed, mixed)[0]).transpose(0, 1)


DECLARED = [AttentionClass(Attention)]


def made(make: Callable[[], nn.Module] = Attention) -> Network:
    torch.manual_seed(0)
    return Network(make).eval()


def drawn(rows: int = 4, time: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(rows, time, WIDTH, generator=generator) for name in SPEC}


def test_the_plan_has_every_projection_and_leaves_out_what_is_none() -> None:
    found = plan(made(lambda: Attention(add_bias_kv=True)), layers=DECLARED)
    parts = [f"{path}.{part}" for path in ("cross", "own") for part in ("query", "key", "value", "out_proj")]
    assert [site.key for site in found.sites] == parts
    assert found.out_of_reach == {"cross.bias_k": WIDTH, "own.bias_k": WIDTH}
    assert {"cross.in_proj_weight", "own.in_proj_bias"} <= set(plan(made()).out_of_reach)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (["ssf", "lora"], {}),
        (["ssf", "lora"], {"bias": False}),
        ("shift", {"bias": False}),
        ("bitfit", {"add_bias_kv": True}),
    ],
)
def test_all_promises_are_kept(method: Any, options: dict[str, Any]) -> None:
    network = made(lambda: Attention(**options))
    check_network(network, SPEC, drawn(), method=method, layers=DECLARED, sharing="additive", compiled=False)


def test_works_compiled_and_exported() -> None:
    check_adapter("ssf", "declared attention", compiled=True)


@pytest.mark.parametrize("method", ["ssf", "scale", "shift", "bitfit", "lora"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_rows_of_a_square_batch_keep_their_own_sets(method: str, size: int) -> None:
    robust = with_sets(adapt(made(), SPEC, method=method, layers=DECLARED))
    inputs, present = (
        drawn(size, size),
        torch.tensor([[True, False], [False, True], [True, True], [True, False]])[:size],
    )
    with torch.no_grad():
        torch.testing.assert_close(robust(inputs, present), row_by_row(robust, inputs, present))
    assert not robust.located.unknown([site.key for site in robust.plan.sites])


def test_nothing_stays_on_the_network_after_a_call_or_an_error() -> None:
    network = made()
    before = snapshot(network)
    robust = adapt(network, SPEC, layers=DECLARED)
    robust.train()(only(drawn(), ["left"]))
    network.own.out_proj.forward = None
    with pytest.raises(TypeError):
        robust.train()(only(drawn(), ["left"]))
    del network.own.out_proj.forward
    assert not {"in_proj_weight", "in_proj_bias"} & {*vars(network.cross), *vars(network.own)}
    robust.detach()
    assert snapshot(network) == before


class Separate(nn.Module):
    """Attend with a weight for each projection, and one bias for all."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = (nn.Parameter(torch.randn(2, WIDTH)) for _ in range(2))
        self.v, self.bias = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(4 + WIDTH))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
        biases = self.bias.split([2, 2, WIDTH])
        q, k, v = (
            F.linear(x, w.contiguous(), b)
            for x, w, b in zip((query, key, value), (self.q, self.k, self.v), biases, strict=True)
        )
        weights = torch.softmax(torch.einsum("tbc,sbc->bts", q, k), -1)
        return torch.einsum("bts,sbc->tbc", weights, v), None


SEPARATE = AttentionClass(Separate, weight={"query": "q", "key": "k", "value": "v"}, bias="bias")


def test_each_projection_may_have_a_weight_of_its_own(tmp_path: Path) -> None:
    check_network(made(Separate), SPEC, drawn(), method=["ssf", "lora"], layers=[SEPARATE], compiled=False)
    robust = adapt(made(Separate), SPEC, layers=[SEPARATE])
    assert [site.layer.channels for site in robust.plan.sites] == [2, 2, WIDTH] * 2
    save(robust, tmp_path)
    assert load(tmp_path, made(Separate)).plan == robust.plan


class Chunked(Attention):
    """Cut the packed parameters in other ways, and cast them."""

    def project(self, x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        assert (self.in_proj_weight.shape, self.in_proj_weight.size(1)) == (torch.Size([18, 6]), 6)
        assert (self.in_proj_weight.dtype, self.in_proj_weight.device) == (x.dtype, x.device)
        weights, biases = torch.chunk(self.in_proj_weight, 3), self.in_proj_bias.to(x.dtype).split(WIDTH)
        rows = slice(start // WIDTH, 3 if end is None else end // WIDTH)
        pairs = zip(weights[rows], biases[rows], strict=True)
        return torch.cat([F.linear(x, weight=weight, bias=bias.narrow(0, 0, WIDTH)) for weight, bias in pairs], -1)


def test_rows_may_be_cut_in_other_ways() -> None:
    robust = with_sets(adapt(made(Chunked), SPEC, method=["ssf", "lora"], layers=[AttentionClass(Chunked)]))
    expected = with_sets(adapt(made(), SPEC, method=["ssf", "lora"], layers=DECLARED))
    inputs = only(drawn(), ["left"])
    with torch.no_grad():
        torch.testing.assert_close(robust(inputs), expected(inputs))
        torch.testing.assert_close(fold(robust, "left")(**drawn()), fold(expected, "left")(**drawn()))


def faulty(project: Callable[[Attention, Tensor, slice], Tensor]) -> type[Attention]:
    """Make a class that projects in some way of its own."""

    class Faulty(Attention):
        def project(self, x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
            return project(self, x, slice(start, end))

    return Faulty


FAULTS: dict[str, tuple[Callable[[Attention, Tensor, slice], Tensor], str]] = {
    "another function": (
        lambda self, x, rows: x @ self.in_proj_weight[rows].t() + self.in_proj_bias[rows],
        r"uses in_proj_weight\.t",
    ),
    "a matrix product": (lambda self, x, rows: x @ self.in_proj_weight[rows], "uses in_proj_weight in matmul"),
    "the bias added later": (
        lambda self, x, rows: F.linear(x, self.in_proj_weight[rows]) + self.in_proj_bias[rows],
        "does not add a projection's bias where it multiplies by its weight",
    ),
    "another part's bias": (
        lambda self, x, rows: F.linear(x, self.in_proj_weight[:WIDTH], self.in_proj_bias[WIDTH : 2 * WIDTH]),
        "does not add a projection's bias where it multiplies by its weight",
    ),
    "something else added": (
        lambda self, x, rows: F.linear(x, self.in_proj_weight[rows], x.new_ones(len(self.in_proj_weight[rows]))),
        "adds something to a projection that isn't its declared bias",
    ),
    "parts of parts": (
        lambda self, x, rows: F.linear(x, self.in_proj_weight[:4], self.in_proj_bias[:4]),
        r"rows 0 to 4 of in_proj_weight, but the parts are query \(in_proj_weight \(0, 6\)\), key",
    ),
    "columns": (lambda self, x, rows: F.linear(x, self.in_proj_weight[:, rows]), "takes in_proj_weight.*no range of"),
    "the other axis": (lambda self, x, rows: F.linear(x, self.in_proj_weight.chunk(3, 1)[0]), "cuts .* along axis 1"),
    "a bias for another weight": (
        lambda self, x, rows: F.linear(x, x.new_ones(WIDTH, WIDTH), self.in_proj_bias[:WIDTH]),
        "uses it in F.linear otherwise than with its own weight",
    ),
    "something of its own": (
        lambda self, x, rows: F.linear(x, self.in_proj_weight[rows] * 2, self.in_proj_bias[rows]),
        "calculates with in_proj_weight",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_it_cannot_follow_is_refused(name: str) -> None:
    project, message = FAULTS[name]
    cls = faulty(project)
    robust = adapt(made(cls), SPEC, layers=[AttentionClass(cls)])
    with pytest.raises(UnsupportedLayer, match=rf"cross \(Faulty\): its forward .*{message}.*exclude=\['cross'\]"):
        robust.train()(only(drawn(), ["left"]))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"weight": "weight"}, r"weight 'weight', but has no such parameter; it has \['in_proj_weight'"),
        ({"weight": "in_proj_bias"}, "'in_proj_bias', but that is no matrix"),
        ({"bias": "offset"}, "bias 'offset', but has no such parameter; .*bias=None where the class adds none"),
        ({"bias": "bias_k"}, r"bias 'bias_k'; expected shape \(18,\), but found \(1, 1, 6\)"),
        ({"parts": ["query", "out_proj"]}, "name at least one, and none as a layer inside it"),
        ({"parts": ["a", "b", "c", "d"]}, r"for \['a', 'b', 'c', 'd'\], but it has 18 rows"),
        ({"weight": {"query": "in_proj_weight"}}, r"weight '\(of key\)'"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(declared: dict[str, Any], message: str) -> None:
    network = made(lambda: Attention(add_bias_kv=True))
    with pytest.raises(UnsupportedLayer, match=rf"cross \(Attention\): declared with .*{message}"):
        plan(network, layers=[AttentionClass(Attention, **declared)])


def test_a_forward_replaced_on_the_instance_is_refused() -> None:
    network = made()
    network.own.forward = network.own.forward
    with pytest.raises(UnsupportedLayer, match=r"own \(Attention\): its forward was replaced on the instance"):
        plan(network, layers=DECLARED)
