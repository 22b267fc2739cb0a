"""Where rows are inside a network; where that is not known, rows run grouped, and are right all the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import METHODS, NETWORKS, SHARINGS, draw, make, row_by_row, with_sets
from subsense import Constant, InputError, RobustModel, adapt
from subsense.routing.locate import locate
from subsense.routing.placement import Placement

WINDOWS = 4
INPUTS = {"a": torch.randn(4, 8, 6), "b": torch.randn(4, 8, 6)}
PRESENT = torch.tensor([[True, False], [True, True], [False, True], [True, False]])  # groups in another order

FIRST = (torch.arange(3 * WINDOWS) % WINDOWS == 0)[:, None, None]  # of the windows of a row

LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Placement | None]] = {
    "first": (lambda x: x, Placement(0)),
    "second": (lambda x: x.transpose(0, 1), Placement(1)),
    "last": (lambda x: x.movedim(0, -1), Placement(2)),
    "batch-major windows": (lambda x: x.reshape(len(x) * WINDOWS, -1, 6), Placement(0, False)),
    "window-major windows": (
        lambda x: x.view(len(x), WINDOWS, -1, 6).transpose(0, 1).flatten(0, 1),
        Placement(0, True),
    ),
    "windows on another axis": (lambda x: x.movedim(0, 1).reshape(2, -1, 6), Placement(1, True)),
    "no batch": (lambda x: torch.ones(8, 6), None),
    "the same for all rows": (lambda x: torch.ones_like(x), None),
    "rows swapped": (lambda x: x.flip(0), None),
    "rows rolled": (lambda x: x.roll(1, 0), None),
    "rows mixed": (lambda x: x - x.mean(0), None),
    "rows doubled in another order": (lambda x: torch.cat([x, x.roll(1, 0)]), None),
    "two axes": (lambda x: x[:, 0] @ x[:, 0].T, None),
    "one number for each row": (lambda x: x.mean((1, 2)), Placement(0)),
    "behind a silent unit": (lambda x: (x.amax((1, 2)) - 12).relu(), Placement(0)),
    "sum of rows": (lambda x: x.sum(0), None),
    "one row too many": (lambda x: torch.cat([x, x[:1]]), None),
    "random": (lambda x: x + torch.rand(8, 6), Placement(0)),
    "one window only": (lambda x: x.reshape(len(x) * WINDOWS, -1, 6) * FIRST[: len(x) * WINDOWS], None),
    "infinite": (lambda x: torch.full_like(x, float("inf")), None),
    "not a number": (lambda x: x / 0 * 0, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_are_found(layout: str, rows: int) -> None:
    arrange, expected = LAYOUTS[layout]
    found = locate(lambda filled: {"site": [arrange(filled["x"][0])]}, {"x": (torch.randn(rows, 8, 6),)})
    assert found.placements == {"site": (expected,)}
    assert found.unknown(["site"]) == ([] if expected else ["site"])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 4),
        torch.full((2, 4), 7),
        torch.tensor([[3], [9]]),
        torch.ones(2, 4, dtype=torch.bool),
        torch.zeros(2),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tuple(tensor.shape)}",
)
def test_rows_are_found_whatever_the_input(tensor: Tensor) -> None:
    found = locate(lambda filled: {"site": [filled["x"][0].float()]}, {"x": (tensor,)})
    assert found.placements == {"site": (Placement(0),)}


class Packed(nn.Module):
    """Select what a mask shows, as ViLT does, and refuse a row of which it shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, a: Tensor, a_mask: Tensor, b: Tensor) -> Tensor:
        if not a_mask.any(1).all():
            raise ValueError("a row without anything")
        shown = self.inner(a[a_mask.bool()])
        rows = a_mask.nonzero()[:, 0]
        summed: Tensor = self.head(torch.zeros(len(a), 6).index_add(0, rows, shown) + b)
        return summed


def test_a_network_that_refuses_drawn_integers_runs_grouped() -> None:
    """Its rows look folded by threes where every mask shows all, which other masks would belie."""
    spec = {"a": {"a": "3 6", "a_mask": "3:int64"}, "b": "6"}
    robust = with_sets(adapt(Packed(), spec, fill={"a": Constant({"a": 0.0, "a_mask": 1})}))
    for mask in (torch.ones(4, 3), torch.tensor([[1, 1, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]])):
        inputs: dict[str, Any] = {"a": {"a": torch.randn(4, 3, 6), "a_mask": mask.long()}, "b": torch.randn(4, 6)}
        together = robust(inputs, PRESENT)
        assert robust.located is not None
        assert robust.located.unknown(["inner"]) == ["inner"]
        for row, has in enumerate(PRESENT):
            parts = {name: part[row : row + 1] for name, part in inputs["a"].items()}
            alone = robust({"a": parts, "b": inputs["b"][row : row + 1]}, has[None])
            torch.testing.assert_close(together[row : row + 1], alone)


def test_a_network_that_refuses_all_changes_is_not_located() -> None:
    seen: list[Tensor] = []

    def run(filled: Any) -> Any:
        [x] = filled["x"]
        seen.append(x)
        if not torch.equal(x, seen[0][: len(x)]):
            raise ValueError("changed")
        return {"site": [x]}

    found = locate(run, {"x": (torch.zeros(2, 4),)})
    assert found.unknown(["site"]) == ["site"]
    assert found.placements == {}


def test_integers_stay_in_the_range_that_was_seen() -> None:
    seen = []
    locate(lambda filled: seen.append(filled["x"][0]) or {}, {"x": (torch.tensor([[2, 9], [5, 4]]),)})
    drawn = torch.cat(seen)
    assert 2 <= int(drawn.min()) <= int(drawn.max()) <= 9


def test_a_site_called_another_number_of_times_is_not_located() -> None:
    found = locate(
        lambda filled: {"site": list(filled["x"][0]), "other": [filled["x"][0]]}, {"x": (torch.randn(2, 4),)}
    )
    assert found.unknown(["site", "other", "never"]) == ["site", "never"]


def test_a_site_called_more_often_for_some_values_is_not_located() -> None:
    calls = iter([1, 1, 2] + [1] * 99)
    found = locate(lambda filled: {"site": [filled["x"][0]] * next(calls)}, {"x": (torch.randn(2, 4),)})
    assert found.placements == {"site": (None,)}


def test_locating_leaves_the_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    locate(lambda filled: {"site": [torch.randn(3)]}, {"x": (torch.randn(2, 4),)})
    expected = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    torch.randn(2, 4)
    assert torch.equal(torch.random.get_rng_state(), expected)


class Windows(nn.Module):
    """Attention in windows that are folded into the batch, batch-major or window-major."""

    def __init__(self, inner: bool) -> None:
        super().__init__()
        self.inner = inner
        self.attention, self.mixer = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 6)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        split = (a + 2 * b).unflatten(1, (WINDOWS, -1))
        windows = (split.transpose(0, 1) if self.inner else split).flatten(0, 1)
        mixed = self.mixer(self.attention(windows, windows, windows, need_weights=False)[0])
        back = mixed.unflatten(0, (WINDOWS, -1) if self.inner else (-1, WINDOWS))
        return (back.transpose(0, 1) if self.inner else back).flatten(1, 2)


class Queries(nn.Module):
    """Learned queries go through a layer that sees no batch at all, and attend to what the batch gives."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.prepare = nn.Parameter(torch.randn(3, 6)), nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 1, batch_first=True)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        queries = self.prepare(self.queries).expand(len(a), -1, -1)
        return self.attention(queries, a, b)[0]


class Twice(nn.Module):
    """One layer, called batch-first, sequence-first and once for each row; another is tied to it."""

    def __init__(self, loop: bool) -> None:
        super().__init__()
        self.loop = loop
        self.layer, self.tied, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(8)
        self.tied.weight = self.layer.weight

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first = self.norm(self.layer(a))
        second = self.layer(b.transpose(0, 1)).transpose(0, 1)
        third = torch.stack([self.layer(row) for row in a]) if self.loop else self.tied(a.movedim(0, 1)).movedim(1, 0)
        return first + second * third


NETS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "batch-major windows": (lambda: Windows(inner=False), True),
    "window-major windows": (lambda: Windows(inner=True), True),
    "queries": (Queries, False),
    "several layouts": (lambda: Twice(loop=False), True),
    "a call for each row": (lambda: Twice(loop=True), False),
}


def adapted(name: str, **options: Any) -> tuple[RobustModel, dict[str, Tensor], bool]:
    if name in NETS:
        torch.manual_seed(0)
        factory, located = NETS[name]
        return with_sets(adapt(factory(), {"a": "8 6", "b": "8 6"}, **options)), INPUTS, located
    network, needed = make(name)
    inputs = {"words": torch.randn(4, 4, 5), "sound": torch.randn(4, 4, 7)}
    return with_sets(adapt(network, **needed, **options)), inputs, True


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("method", ["ssf", "lora"])
@pytest.mark.parametrize("name", ["sequences", "sequence-first", *NETS])
def test_a_mixed_batch_equals_row_by_row(name: str, method: str, sharing: str) -> None:
    robust, inputs, located = adapted(name, method=method, sharing=sharing)
    with torch.no_grad():
        mixed, alone = robust(inputs, PRESENT), row_by_row(robust, inputs, PRESENT)
    torch.testing.assert_close(mixed, alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(mixed, robust.pretrained(inputs, PRESENT), rtol=1e-2)
    assert (not robust.located.unknown([site.key for site in robust.plan.sites])) == located


def test_sequence_first_layers_are_located_on_their_second_axis() -> None:
    robust, inputs, _ = adapted("sequence-first")
    placements = robust.locate(inputs).placements
    assert {placements[f"encoder.layers.0.{part}"][0].axis for part in ("self_attn.query", "linear1", "norm2")} == {1}
    assert placements["words"] == placements["head"] == (Placement(0),)


@pytest.mark.parametrize(
    ("name", "method"),
    [*(("several layouts", one) for one in METHODS), ("window-major windows", "lora"), ("queries", "lora")],
)
def test_gradients_of_a_mixed_batch_are_those_of_its_rows(name: str, method: Any) -> None:
    robust, inputs, _ = adapted(name, method=method, sharing="additive")

    def gradients(output: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output.square().sum(), robust.adapter_parameters().values()))

    together, alone = gradients(robust(inputs, PRESENT)), gradients(row_by_row(robust, inputs, PRESENT))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_location_holds_for_other_sizes() -> None:
    robust, inputs, _ = adapted("sequence-first")
    robust(inputs, PRESENT)
    longer = {"words": torch.randn(5, 9, 5), "sound": torch.randn(5, 9, 7)}
    present = PRESENT[[0, 0, 1, 2, 0]]
    torch.testing.assert_close(robust(longer, present), row_by_row(robust, longer, present), rtol=1e-5, atol=1e-5)


class Outputs(Queries):
    """Give a dict with a list, a number and None, as some networks do."""

    def __init__(self, loss: bool) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, a: Tensor, b: Tensor) -> Any:
        tokens = super().forward(a, b)
        parts = [tokens, tokens.transpose(0, 1), tokens.flatten(0, 1)]
        return {"tokens": parts, "none": None} | ({"loss": tokens.mean()} if self.loss else {})


def test_grouped_rows_come_back_in_order_in_every_part_of_an_output() -> None:
    robust = with_sets(adapt(Outputs(loss=False), {"a": "8 6", "b": "8 6"}))
    output = robust(INPUTS, PRESENT)
    expected = torch.cat(
        [
            robust({n: INPUTS[n][i : i + 1] for n in robust.modalities.from_present(has)})["tokens"][0]
            for i, has in enumerate(PRESENT)
        ]
    )
    torch.testing.assert_close(output["tokens"], [expected, expected.transpose(0, 1), expected.flatten(0, 1)])
    assert output["none"] is None


class Repeats(Queries):
    """Give the learned queries too, once for each row, and the same once for all."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        self.once = once

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        tokens = super().forward(a, b)
        queries = self.prepare(self.queries)[None]
        return tokens, queries if self.once else queries.expand(len(a), -1, -1)


def test_an_output_that_is_the_same_for_every_row_comes_back_grouped() -> None:
    robust = with_sets(adapt(Repeats(once=False), {"a": "8 6", "b": "8 6"}))
    inputs = draw({"a": "8 6", "b": "8 6"}, rows=len(PRESENT))
    found = robust(inputs, PRESENT)
    for row, has in enumerate(PRESENT):
        some = {name: inputs[name][row : row + 1] for name in robust.modalities.from_present(has)}
        for one, other in zip(found, robust(some), strict=True):
            torch.testing.assert_close(one[row : row + 1], other, rtol=1e-5, atol=1e-5)


def test_an_output_that_is_there_once_for_all_rows_cannot_run_grouped() -> None:
    robust = with_sets(adapt(Repeats(once=True), {"a": "8 6", "b": "8 6"}))
    with pytest.raises(InputError, match=r"\(1, 3, 6\).*no place for rows"):
        robust(draw({"a": "8 6", "b": "8 6"}, rows=len(PRESENT)), PRESENT)


def test_an_output_that_has_no_rows_cannot_run_grouped() -> None:
    robust = with_sets(adapt(Outputs(loss=True), {"a": "8 6", "b": "8 6"}))
    with pytest.raises(
        InputError, match=r"must run in groups, but an output of the network \(shape \(\)\) has no place"
    ):
        robust(INPUTS, PRESENT)


def test_rows_are_found_where_redrawn_placeholders_would_hand_a_rows_picture_to_others() -> None:
    def run(filled: dict[str, tuple[Tensor, ...]]) -> dict[str, list[Tensor]]:
        (ids,), (pictures,) = filled["text"], filled["image"]
        words = nn.functional.one_hot(ids % 10, 10).float()[..., :3]
        return {"output": [words.masked_scatter((ids == 9)[..., None], pictures).cumsum(1)]}

    ids = torch.tensor([[1, 9, 9, 4], [2, 9, 9, 8], [5, 9, 9, 3]])
    found = locate(run, {"text": (ids,), "image": (torch.randn(3, 2, 3),)}, "output")
    assert found.placements["output"] == (Placement(0),)
    assert not found.certain


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_mixed_call_runs_the_network_five_times_more_and_no_other_call_does(name: str) -> None:
    network, arguments = make(name)
    robust = with_sets(adapt(network, **arguments))
    inputs = draw(arguments["modalities"], rows=4)
    combinations = (*robust.combinations, robust.modalities.complete)
    present = torch.stack([robust.modalities.present(combinations[row % len(combinations)]) for row in range(4)])
    first = next(iter(inputs))
    calls: list[int] = []
    robust.network.register_forward_pre_hook(lambda *args: calls.append(1))
    counts = []
    with torch.no_grad():
        for run in (lambda: robust({first: inputs[first]}), lambda: robust(inputs, present)) * 2:
            calls.clear()
            run()
            counts.append(len(calls))
    assert counts == [1, 6, 1, 1]
