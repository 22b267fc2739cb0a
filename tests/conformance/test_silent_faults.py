"""Fifteen ways in which adapter libraries give wrong results without an error, by number; here none does.

Where peft 0.21.2 shows the fault, the test's comment says so. Number 5, several processes, has a file of its own.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

import subsense as ss
from networks import METHODS, SHARINGS, draw, make, only, row_by_row, snapshot, with_sets
from subsense import RobustModel

AB = {"a": "4", "b": "4"}


class Both(nn.Module):
    """Add two inputs, and give the sum to a network."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.body(a + 2 * b)


def ready(network: nn.Module, modalities: Any = AB, **options: Any) -> RobustModel:
    """Adapt a network, and give every set something to do."""
    return with_sets(ss.adapt(network, modalities, **options))


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return float((one - other).abs().max()) <= tolerance * float(other.abs().max())


# -------------------------------------------------------------------------------- 1: fused transformer paths skip hooks


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("depth", ["encoder", "layer"])
def test_fault_01_adapters_in_a_transformer_act_in_eval_mode(depth: str, batch_first: bool, norm_first: bool) -> None:
    # peft's LoRA at linear1: the output in eval mode is the unadapted network's.
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=batch_first, norm_first=norm_first)
    nested = batch_first and not norm_first
    network = layer if depth == "layer" else nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [4]])

    def call(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        tokens = inputs["a"] + inputs["b"]
        tokens = tokens if batch_first else tokens.transpose(0, 1)
        return network(tokens, src_key_padding_mask=padding)

    robust = ready(network, {"a": "5 8", "b": "5 8"}, call=call)
    given = {"a": torch.randn(3, 5, 8)}
    kept = ~padding if batch_first else ~padding.T
    with torch.no_grad():
        evaluated, trained, frozen = robust.eval()(given), robust.train()(given), robust.eval().pretrained(given)
        folded = robust.filled(ss.fold(robust, "a"))(given)
    assert close(evaluated[kept], trained[kept])
    assert close(evaluated[kept], folded[kept])
    assert not close(evaluated[kept], frozen[kept], 0.05)


# ---------------------------------------------------------------------------- 2: a request for each row that is dropped


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", ["towers", "cameras", "sequence-first"])
def test_fault_02_every_method_serves_a_request_for_each_row(name: str, method: Any, sharing: str) -> None:
    # peft takes `adapter_names` for LoRA at linear layers alone, in inference alone.
    network, options = make(name)
    if method == "shift" and name == "sequence-first":
        with pytest.raises(ss.UnsupportedLayer, match=r"encoder\.norm \(RMSNorm\)"):
            ss.adapt(network, method=method, **options)
        return
    robust = ready(network, method=method, sharing=sharing, **options)
    inputs, codes = draw(robust.modalities.spec), [1, 2, 3, 1]
    present = torch.stack([robust.modalities.present(robust.modalities.from_code(code)) for code in codes])
    with torch.no_grad():
        together, alone = robust(inputs, present), row_by_row(robust, inputs, present)
        frozen = robust.pretrained(inputs, present)
    assert close(together, alone)
    assert not close(together, frozen, 0.01)


# -------------------------------------------------------------------------------------------- 3: rows that are mixed up


class SequenceFirst(nn.Module):
    """Attend over (sequence, batch, feature)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, 0.0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.encoder((a + 2 * b).transpose(0, 1)).transpose(0, 1)


class TimeMajorRows(nn.Module):
    """Run a linear layer over (sequence * batch) rows, the batch varying fastest or slowest."""

    def __init__(self, inner: bool) -> None:
        super().__init__()
        self.inner, self.layer = inner, nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens = a + 2 * b
        tokens = tokens.transpose(0, 1) if self.inner else tokens
        mixed = self.layer(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return mixed.transpose(0, 1) if self.inner else mixed


LAYOUTS: dict[str, Callable[[], nn.Module]] = {
    "batch first": lambda: Both(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)),
    "sequence first": SequenceFirst,
    "folded, batch slowest": lambda: TimeMajorRows(inner=False),
    "folded, batch fastest": lambda: TimeMajorRows(inner=True),
    "channels": lambda: Both(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)),
}


@pytest.mark.parametrize("method", ["ssf", "lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "first", "then"), [(4, 4, 4), (3, 3, 3), (2, 2, 2), (2, 1, 4), (4, 1, 4), (4, 7, 1)])
def test_fault_03_rows_keep_their_own_sets(layout: str, rows: int, first: int, then: int, method: str) -> None:
    # peft takes axis 0 for the batch wherever it is asked for rows. Lengths of 1, and those equal to the number of
    # rows or channels, are where axes can be mistaken; the first call is the one at which rows are located.
    size = "4 T" if layout == "channels" else "T 4"
    robust = ready(LAYOUTS[layout](), {"a": size, "b": size}, method=method)
    present = torch.tensor([[True, False], [False, True], [True, True], [False, True]])[:rows]
    for length in (first, then):
        inputs = draw(robust.modalities.spec, rows, T=length)
        with torch.no_grad():
            assert close(robust(inputs, present), row_by_row(robust, inputs, present))


# ---------------------------------------------------------------------------- 4: an output projection that no one calls


@pytest.mark.parametrize("method", METHODS[:4] + METHODS[5:], ids=str)
@pytest.mark.parametrize("widths", [{}, {"kdim": 8, "vdim": 8}])
def test_fault_04_attentions_output_projection_is_called_and_learns(widths: dict[str, int], method: Any) -> None:
    # peft wraps `out_proj`, counts it as trainable, and attention never calls it.
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.attention(a, b, b, need_weights=False)[0]

    robust = ready(Attend(), {"a": "5 8", "b": "5 8"}, method=method)
    robust.train()({"b": torch.randn(3, 5, 8)}).square().sum().backward()
    robust.train()({"a": torch.randn(3, 5, 8)}).square().sum().backward()
    learnt = {name: bool(bank.grad.any()) for name, bank in robust.banks.named().items() if bank.grad is not None}
    assert {name.split(":")[0] for name in learnt} == {
        f"attention.{part}" for part in ("query", "key", "value", "output")
    }
    assert all(moves for name, moves in learnt.items() if name.startswith("attention.output"))


def test_fault_04_a_layer_whose_weight_is_read_by_others_is_refused() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.read = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return F.linear(self.first(a + b), self.read.weight, self.read.bias)

    with pytest.raises(ss.LayerNeverCalled, match=r"never calls read, .*exclude=\['read'\]"):
        ready(Reads())({"a": torch.randn(3, 4)})


# ---------------------------------------------------------------------------- 6: an optimiser made before the switching


@pytest.mark.parametrize("sharing", SHARINGS)
def test_fault_06_one_optimiser_made_first_trains_every_set(sharing: str) -> None:
    # peft: what `set_adapter` activates after the optimiser was made from the trainable parameters never moves.
    network, options = make("towers")
    robust = ss.adapt(network, **options, sharing=sharing, method=["ssf", "lora"])
    optimiser = torch.optim.SGD([one for one in robust.parameters() if one.requires_grad], lr=0.1)
    inputs = draw(options["modalities"])
    for combination in robust.combinations:
        kept = {name: bank.detach().clone() for name, bank in robust.banks.named().items()}
        optimiser.zero_grad()
        robust.train()(only(inputs, combination)).square().sum().backward()
        optimiser.step()
        rows = robust.bank_rows([combination])
        for name, bank in robust.banks.named().items():
            moved = (bank.detach() != kept[name]).flatten(1).any(1)
            assert not moved[~rows].any(), f"{name}: the set of another combination moved"
            if "down" not in name and not name.startswith(("left", "right")):
                assert moved[rows].all(), f"{name}: the set of {combination} did not move"


# -------------------------------------------------------------------------------- 7: convolutions of every kind, folded


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    dims, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
    wide = 4 * draw(st.integers(1, 2))  # 4 groups of 4 channels: depthwise
    options: dict[str, Any] = {
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(dims)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if draw(st.booleans()):
        options |= {"stride": (stride := draw(st.integers(1, 3))), "padding": draw(st.integers(0, 1))}
        options["output_padding"] = draw(st.integers(0, max(stride, options["dilation"]) - 1))
        cls = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    else:
        options["padding"] = draw(st.sampled_from([0, 1, "same", "valid"]))
        options["stride"] = 1 if options["padding"] == "same" else draw(st.integers(1, 2))
        options["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        cls = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return cls(4, wide, **options), (4, *[7, 6, 5][:dims])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(convolutions(), st.sampled_from(["ssf", "lora", ["ssf", "lora"]]))
def test_fault_07_any_convolution_folds_right(made: tuple[nn.Module, tuple[int, ...]], method: Any) -> None:
    # peft's merged LoRA is wrong or refused for grouped and transposed convolutions.
    layer, shape = made
    axes = " ".join(map(str, shape))
    robust = ready(Both(layer.double()), dict.fromkeys(AB, f"{axes}:float64"), method=method)
    given = {"a": torch.randn(2, *shape, dtype=torch.float64)}
    with torch.no_grad():
        adapted, folded = robust(given), robust.filled(ss.fold(robust, "a"))(given)
    torch.testing.assert_close(folded, adapted, rtol=1e-10, atol=1e-10)
    inputs = draw(dict.fromkeys(AB, axes), rows=3)
    inputs = {name: value.double() for name, value in inputs.items()}
    present = torch.tensor([[True, False], [False, True], [True, True]])
    with torch.no_grad():
        torch.testing.assert_close(robust(inputs, present), row_by_row(robust, inputs, present), rtol=1e-9, atol=1e-9)


def test_fault_07_a_size_asked_of_a_transposed_convolution_is_kept() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.up(a + b, output_size=[12, 11])

    robust = ready(Up(), dict.fromkeys(AB, "4 5 5"), method=["ssf", "lora"])
    given = {"a": torch.randn(2, 4, 5, 5)}
    with torch.no_grad():
        assert close(robust.filled(ss.fold(robust, "a"))(given), robust(given))


# --------------------------------------------------------------------------------------------- 8: weights that are tied


class Tied(nn.Module):
    """Read words, give words: the output layer's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.middle, self.out = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.words.weight

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(self.middle(self.words(a) + self.words(b)))


@pytest.mark.parametrize("method", ["ssf", "lora"])
def test_fault_08_folding_one_name_of_a_tied_weight_leaves_the_other(method: str) -> None:
    # peft's merge writes into the shared tensor: the embedding changes with the output layer.
    robust = ready(Tied(), dict.fromkeys(AB, "5:int64"), method=method)
    words = robust.network.words.weight.detach().clone()
    given = {"a": torch.randint(9, (3, 5))}
    folded = ss.fold(robust, "a")
    with torch.no_grad():
        assert close(robust.filled(folded)(given), robust(given))
    assert torch.equal(folded.words.weight, words)
    assert not torch.equal(folded.out.weight, words)
    assert robust.network.out.weight is robust.network.words.weight


def test_fault_08_a_fold_that_another_reader_of_the_weight_would_feel_is_refused() -> None:
    class Shares(Tied):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            mixed = self.middle(self.words(a) + self.words(b))
            return self.out(mixed) + F.linear(mixed, self.out.weight)

    robust = ready(Shares(), dict.fromkeys(AB, "5:int64"))
    with pytest.raises(ss.FoldError, match="differ"):
        ss.fold(robust, "a", example={"a": torch.randint(9, (3, 5))})


# ----------------------------------------------------------------------------------------- 9: one layer under two names


@pytest.mark.parametrize("method", ["ssf", "lora"])
def test_fault_09_one_layer_under_two_names_is_one_site(method: str) -> None:
    # peft wraps it once or twice, by the order of the names.
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.other, self.listed = self.one, nn.ModuleList([self.one])

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.other(torch.tanh(self.one(a + b))) + self.listed[0](a)

    robust = ready(Twice(), method=method)
    assert [site.key for site in robust.plan.sites] == ["one"]
    hooks = list(robust.network.one._forward_hooks.values())
    assert len(hooks) == 1
    [(_, adapter, row)] = robust.adapter_set("a")
    plain = robust.network.one
    weight, bias = adapter.fold(robust.plan.sites[0].layer, row, plain.weight.detach(), plain.bias.detach())
    a = torch.randn(3, 4)
    by_hand = F.linear(torch.tanh(F.linear(a, weight, bias)), weight, bias) + F.linear(a, weight, bias)
    with torch.no_grad():
        assert close(robust({"a": a}), by_hand)
        folded = ss.fold(robust, "a")
        assert folded.other is folded.one is folded.listed[0]
        assert close(robust.filled(folded)({"a": a}), by_hand)


# ---------------------------------------------------------------------------------------- 10: a scale of zero, and back


@pytest.mark.parametrize("name", ["towers", "cameras", "sequences"])
def test_fault_10_a_scale_of_zero_folds_and_the_way_back_is_exact(name: str) -> None:
    # peft's unmerge divides: after a scale of zero it leaves inf, after any other it is not bit-exact.
    network, options = make(name)
    before = snapshot(network)
    robust = ready(network, **options)
    with torch.no_grad():
        for bank_name, bank in robust.banks.named().items():
            bank.fill_(-1.0) if bank_name.endswith(":scale") else bank.zero_()
    given = only(draw(robust.modalities.spec), robust.combinations[0])
    with torch.no_grad():
        output = robust(given)
        folded = ss.fold(robust, robust.combinations[0])
        assert all(bool(value.isfinite().all()) for value in folded.state_dict().values())
        torch.testing.assert_close(robust.filled(folded)(given), output, rtol=0, atol=1e-6)
        assert torch.equal(robust(given), output)
    assert snapshot(robust.detach()) == before


# --------------------------------------------------------------------------------------------- 11: statistics that move


@pytest.mark.parametrize("mode", ["robust.train()", "robust.train() again and again", "ss.train"])
def test_fault_11_running_statistics_stay(mode: str) -> None:
    # peft's wrapper passes train() on to the frozen network, whose BatchNorm then moves.
    network, options = make("cameras")
    before = snapshot(network)["bytes"]
    robust = ss.adapt(network, **options)
    inputs = draw(options["modalities"], rows=6)
    if mode == "ss.train":
        target = torch.randn(6, 5, 6, 6)
        ss.train(robust, [(inputs, target)], loss=F.mse_loss, dropout=True, epochs=2, progress=False)
    for _ in range(1 if mode == "robust.train()" else 3):
        robust.train()
        robust(inputs)
        robust({"rgb": inputs["rgb"]}).sum().backward()
    assert snapshot(network)["bytes"] == before


def test_fault_11_a_network_put_into_training_mode_by_hand_is_refused() -> None:
    network, options = make("cameras")
    before = snapshot(network)["bytes"]
    robust = ready(network, **options)
    inputs = draw(robust.modalities.spec)
    present = torch.tensor([[True, False, True], [True, True, True]]).repeat(2, 1)
    network.train()
    for args in (({"rgb": inputs["rgb"]},), (inputs,), (inputs, present)):
        with pytest.raises(ss.PlanError, match=r"fuse\.0 \(BatchNorm2d\).*training mode.*statistics"):
            robust(*args)
    assert snapshot(network)["bytes"] == before
    robust.eval()
    assert robust(inputs).shape


# ------------------------------------------------------------------------------------- 12: trainable again by switching


@pytest.mark.parametrize("sharing", SHARINGS)
def test_fault_12_switching_leaves_what_is_trainable_alone(tmp_path: Path, sharing: str) -> None:
    # peft: load_adapter(is_trainable=False), then set_adapter, and requires_grad is True again.
    network, options = make("cameras")
    ss.save(ready(network, sharing=sharing, **options), tmp_path)
    robust = ss.load(tmp_path, make("cameras")[0]).requires_grad_(False).eval()
    inputs = draw(robust.modalities.spec)
    present = torch.tensor([[True, False, True], [False, True, True], [True, True, True], [True, True, False]])
    for args in [(only(inputs, one),) for one in robust.modalities.combinations()] + [(inputs, present)]:
        assert not robust(*args).requires_grad
        assert not any(parameter.requires_grad for parameter in robust.parameters())
    ss.fold(robust, "rgb")
    with robust.no_adapters():
        robust.network(list(inputs.values()))
    assert not any(parameter.requires_grad for parameter in robust.parameters())


def test_fault_12_making_the_model_trainable_leaves_the_network_frozen() -> None:
    network, options = make("towers")
    robust = ss.adapt(network, **options).requires_grad_(False).requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in robust.adapter_parameters().values())


# ---------------------------------------------------------------------------------- 13: a graph for each set, then none


@pytest.mark.parametrize("sharing", SHARINGS)
def test_fault_13_one_graph_serves_fifteen_combinations(sharing: str) -> None:
    # peft compiles anew for each set, and after torch's eight falls back to eager with a line in the log.
    graphs: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, example: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))

        def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
            return self.layers(a + 2 * b + 3 * c + 4 * d)

    robust = ready(Four(), dict.fromkeys("abcd", "4"), sharing=sharing, method=["ssf", "lora"])
    inputs = draw(robust.modalities.spec)
    robust.locate(inputs)
    torch._dynamo.reset()
    compiled = torch.compile(robust, backend=backend, fullgraph=True)  # fullgraph: no graph is an error
    with torch.no_grad():
        for combination in robust.modalities.combinations():
            present = robust.modalities.present(combination).expand(4, -1)
            assert close(compiled(inputs, present), robust(only(inputs, combination)))
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("limit", [3, *(pytest.param(one, marks=pytest.mark.slow) for one in (None, 16))])  # None: 8
def test_fault_13_a_graph_for_each_combination_warns_before_torch_stops(limit: int | None) -> None:
    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
            return self.layer(a + 2 * b + 3 * c + 4 * d)

    robust = ready(Four(), dict.fromkeys("abcd", "4"))
    inputs = draw(robust.modalities.spec)
    torch._dynamo.reset()
    options = {} if limit is None else {"recompile_limit": limit}
    compiled = torch.compile(robust, backend="eager", **options)
    expected = pytest.warns(UserWarning, match="every further one uncompiled.*pass `present`")
    with torch.no_grad(), nullcontext() if limit == 16 else expected:
        for combination in robust.modalities.combinations():
            given = only(inputs, combination)
            assert close(compiled(given), robust(given))
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ 14: names and classes


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", ["towers", "cameras", "sequences", "sequence-first"])
def test_fault_14_names_and_classes_stay(name: str, method: Any) -> None:
    # peft: `base_model.model.` before every name, `base_layer` within, and classes of its own.
    network, options = make(name)
    before = snapshot(network)
    modules = dict(network.named_modules())
    refused = ["encoder.norm"] if method == "shift" and name.startswith("sequence") else []
    robust = ready(network, method=method, exclude=refused, **options)
    robust(only(draw(robust.modalities.spec), robust.combinations[0]))
    during = snapshot(network)
    assert during["bytes"] == before["bytes"]
    assert during["classes"] == before["classes"]
    assert all(module is modules[path] for path, module in network.named_modules())
    fresh = make(name)[0]
    fresh.load_state_dict(network.state_dict())
    assert snapshot(robust.detach()) == before


# ------------------------------------------------------------------------------------- 15: names that are no file names

NAMES = [
    "a.b",
    "../up",
    "/abs",
    "with space",
    "a/b",
    "x" * 300,
    "é日本",
    "con:1",
    "C:\\x",
    "%s",
    ".",
    "..",
    "a\0b",
    "~",
]


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", NAMES)
def test_fault_15_any_name_is_saved_inside_the_folder(tmp_path: Path, name: str, sharing: str) -> None:
    # peft makes a folder of each adapter's name: "../x" leaves the folder, "a.b" can't be loaded.
    def call(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return network(*inputs.values())

    network = Both(nn.Linear(4, 4))
    robust = ready(network, {name: "4", "other": "4"}, call=call, sharing=sharing, fill="learned")
    folder = tmp_path / "in" / "here"
    ss.save(robust, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["here"]
    assert all(path.is_file() for path in folder.iterdir())
    given = {name: torch.randn(2, 4)}
    expected = robust(given)
    loaded = ss.load(folder, robust.detach(), call=call)
    assert torch.equal(loaded(given), expected)
    assert [str(one) for one in loaded.combinations] == [name, "other"]


@pytest.mark.parametrize("name", ["a+b", "", " a", "\n", "present"])
def test_fault_15_names_that_a_combination_could_not_be_read_from_are_refused(name: str) -> None:
    with pytest.raises(ss.ModalityError):
        ss.adapt(Both(nn.Linear(4, 4)), {name: "4", "other": "4"})


def test_fault_15_modules_whose_names_look_alike_keep_their_own_parameters(tmp_path: Path) -> None:
    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
            self.add_module("a/b", nn.Linear(4, 4))
            self.add_module("a:ssf", nn.Linear(4, 4))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return sum(layer(a + b) for layer in self.modules() if isinstance(layer, nn.Linear))

    robust = ready(Alike())
    assert len({id(bank) for bank in robust.banks.named().values()}) == 6
    assert len(robust.adapter_parameters()) == len(list(robust.banks.parameters())) == 6
    expected = robust({"a": torch.ones(2, 4)})
    ss.save(robust, tmp_path)
    assert torch.equal(ss.load(tmp_path, robust.detach())({"a": torch.ones(2, 4)}), expected)


@pytest.mark.parametrize(
    "modalities",
    [
        {"m": {"a.b": "4", "a/b": "4"}, "other": "4"},
        {"m": {"a.b": "4"}, "m.a": {"b": "4"}},
        {"m:a": {"b": "4"}, "m": {"a:b": "4"}},
    ],
)
def test_fault_15_fills_whose_names_look_alike_keep_their_own_values(tmp_path: Path, modalities: Any) -> None:
    def call(network: nn.Module, inputs: dict[str, Any]) -> Tensor:
        parts = [part for value in inputs.values() for part in (value.values() if isinstance(value, dict) else [value])]
        return network(parts[0], sum(parts[1:]))

    robust = ready(Both(nn.Linear(4, 4)), modalities, call=call, fill="learned")
    parts = sum(len(one.parts) for one in robust.modalities.values())
    fills = list(robust.fill.stand_ins().values())
    assert len(fills) == len({id(value) for value in fills}) == len(list(robust.fill.parameters())) == parts
    first = next(iter(modalities))
    given = {first: draw({first: "4"})[first] if isinstance(modalities[first], str) else draw(modalities[first])}
    expected = robust(given)
    ss.save(robust, tmp_path)
    assert torch.equal(ss.load(tmp_path, robust.detach(), call=call)(given), expected)
