"""A folded set is an ordinary network that computes what the adapted one computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import METHODS, NETWORKS, SHARINGS, TOWERS, draw, make, only, snapshot, with_sets
from subsense import (
    FoldError,
    LayerClass,
    LoRA,
    ModalityError,
    PlanError,
    RobustModel,
    UntrainedCombination,
    adapt,
    fold,
    prepare,
)
from subsense.deployment.export import compare, write_export

TOLERANCE = 1e-5


class OneLayer(nn.Module):
    """Put two inputs of the same shape through one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = a + 2 * b
        return self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)


class ChannelNorm(nn.Module):
    """A channel-first LayerNorm with raw parameters of its own names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.movedim(1, -1), self.gain.shape, self.gain, self.offset).movedim(-1, 1)


class Transposed(nn.Module):
    """A linear layer that keeps its matrix the other way round, as GPT-2's does."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


OWN = [
    LayerClass(ChannelNorm, kind="norm", axis=1, weight="gain", bias="offset"),
    LayerClass(Transposed, kind="linear", axis=-1, weight="w", bias="b", out_axis=1),
]

LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: nn.Linear(4, 6), "3 4"),
    "linear, no bias": (lambda: nn.Linear(4, 6, bias=False), "3 4"),
    "linear, transposed": (Transposed, "3 4"),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular"), "4 7"),
    "conv2d, no bias": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, bias=False), "4 7 8"),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, (1, 3), groups=2, padding=(0, 1), padding_mode="reflect"), "4 5 6"),
    "conv2d, depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), "4 5 6"),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), "2 3 4 5"),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), "4 5"),
    "transposed2d, no bias": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, dilation=2, bias=False), "4 3 4"),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 4, 2, groups=2), "2 2 3 4"),
    "batchnorm1d": (lambda: nn.BatchNorm1d(4), "4"),
    "batchnorm2d": (lambda: nn.BatchNorm2d(4), "4 3 5"),
    "batchnorm2d, no affine": (lambda: nn.BatchNorm2d(4, affine=False), "4 3 5"),
    "batchnorm3d": (lambda: nn.BatchNorm3d(2), "2 3 2 2"),
    "layernorm": (lambda: nn.LayerNorm(4), "3 4"),
    "layernorm, two axes": (lambda: nn.LayerNorm((3, 4)), "2 3 4"),
    "layernorm, no affine": (lambda: nn.LayerNorm(4, elementwise_affine=False), "3 4"),
    "layernorm, no bias": (lambda: nn.LayerNorm(4, bias=False), "3 4"),
    "layernorm, channel-first": (lambda: ChannelNorm(4), "4 3 5"),
    "groupnorm": (lambda: nn.GroupNorm(2, 4), "4 3 5"),
    "groupnorm, no affine": (lambda: nn.GroupNorm(2, 4, affine=False), "4 3 5"),
    "instancenorm1d, no affine": (lambda: nn.InstanceNorm1d(4), "4 5"),
    "instancenorm2d": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), "4 3 5"),
    "instancenorm3d": (lambda: nn.InstanceNorm3d(2, affine=True), "2 3 2 2"),
    "rmsnorm": (lambda: nn.RMSNorm(4), "3 4"),
    "rmsnorm, no affine": (lambda: nn.RMSNorm(4, elementwise_affine=False), "3 4"),
    "attention": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), "3 4"),
    "attention, no bias": (lambda: nn.MultiheadAttention(4, 2, bias=False, batch_first=True), "3 4"),
    "attention, entries": (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True), "3 4"),
}


def one_layer(name: str, dtype: str = "float32", **options: Any) -> tuple[RobustModel, dict[str, Tensor]]:
    """Adapt a network of one layer; its statistics and affine pairs are not the trivial ones."""
    make_layer, axes = LAYERS[name]
    torch.manual_seed(0)
    network = OneLayer(make_layer()).eval()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.5)
    network.to(getattr(torch, dtype))
    declared = [one for one in OWN if any(type(module) is one.cls for module in network.modules())]
    spec = dict.fromkeys("ab", f"{axes}:{dtype}")
    robust = with_sets(adapt(network, spec, layers=declared, **options))
    return robust, {name: tensor.to(getattr(torch, dtype)) for name, tensor in draw({"a": axes, "b": axes}).items()}


def difference(robust: RobustModel, combination: str, inputs: dict[str, Tensor], **options: Any) -> float:
    """Give how far the folded network is from the adapted one, relative to the greatest output."""
    part = only(inputs, robust.modalities.combination(combination))
    with torch.no_grad():
        args, kwargs = prepare(robust, part)
        expected, found = robust(part), fold(robust, combination, **options)(*args, **kwargs)
        assert not torch.allclose(expected, robust.pretrained(part), rtol=1e-2)
    return float((found - expected).abs().max() / expected.abs().max())


def serves(layer: str, method: Any) -> bool:
    """Say whether a method acts at a layer; where it does not, it refuses or finds nothing to do."""
    norm, affine = "norm" in layer, "no affine" not in layer
    if method == "bitfit":
        return affine and "no bias" not in layer and "rmsnorm" not in layer
    return {"norm": norm and affine, "lora": not norm, "shift": "rmsnorm" not in layer}.get(str(method), True)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_folded_is_unfolded_at_every_layer(layer: str, method: Any) -> None:
    if not serves(layer, method):
        with pytest.raises(PlanError, match=r"no layer of OneLayer is a site|'shift' can't serve it"):
            one_layer(layer, method=method)
        return
    for sharing in SHARINGS:
        robust, inputs = one_layer(layer, method=method, sharing=sharing)
        assert difference(robust, "b", inputs) < TOLERANCE


@pytest.mark.parametrize(
    "method", ["ssf", ["shift", "lora"], ["lora", "ssf"], [LoRA(rank=2, alpha=5), "scale"]], ids=str
)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_folded_is_unfolded_in_every_network(name: str, sharing: str, method: Any) -> None:
    network, options = make(name)
    before = snapshot(network)
    exclude = ["encoder.norm"] if "shift" in method and name.startswith("sequence") else []
    robust = with_sets(adapt(network, **options, sharing=sharing, method=method, exclude=exclude, fill="learned"))
    inputs = draw(options["modalities"])
    for combination in (robust.combinations[0], robust.combinations[-1]):
        assert difference(robust, str(combination), inputs, example=inputs) < TOLERANCE
    robust.detach()
    assert snapshot(network) == before


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("layer", ["linear, no bias", "batchnorm2d", "attention, no bias"])
def test_what_a_fold_adds_has_the_networks_dtype(layer: str, dtype: str) -> None:
    robust, inputs = one_layer(layer, dtype)
    folded = fold(robust, "b")
    assert {parameter.dtype for parameter in folded.parameters()} == {getattr(torch, dtype)}
    assert difference(robust, "b", inputs) < {"float64": 1e-14, "float16": 4e-3, "bfloat16": 3e-2}[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_affine_pair_that_a_fold_adds_has_the_networks_dtype(dtype: torch.dtype) -> None:
    network, options = make("cameras")
    spec = {name: f"{axes}:{str(dtype).removeprefix('torch.')}" for name, axes in options["modalities"].items()}
    robust = with_sets(adapt(network.to(dtype), **options | {"modalities": spec}))
    folded = fold(robust, "rgb")
    assert folded.norms[0].weight.dtype == folded.norms[0].bias.dtype == dtype


def test_a_folded_network_is_an_ordinary_one() -> None:
    robust, _ = one_layer("attention, no bias")
    folded = fold(robust, "a")
    found, plain = snapshot(folded), snapshot(robust.detach())
    assert found["classes"] == plain["classes"]
    assert found["hooks"] == plain["hooks"]
    assert not any(
        type(value).__module__.startswith("subsense") for m in folded.modules() for value in vars(m).values()
    )
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not folded.training
    assert folded is not robust.network
    assert set(folded.state_dict()) - set(robust.network.state_dict()) == {"layer.in_proj_bias", "layer.out_proj.bias"}


def test_folding_leaves_the_model_as_it_was() -> None:
    network, options = make("sequences")
    robust, inputs = with_sets(adapt(network, **options)).train(), draw(options["modalities"])
    words = only(inputs, ["words"])
    before, expected = snapshot(robust), robust(words)
    fold(robust, "words", example=inputs)
    assert snapshot(robust)["bytes"] == before["bytes"]
    assert snapshot(robust)["training"] == before["training"]
    assert torch.equal(robust(words), expected)


def test_the_complete_combination_folds_to_a_plain_copy() -> None:
    network, options = make("towers")
    folded = fold(adapt(network, **options), "left+right", example=draw(TOWERS))
    assert snapshot(folded)["bytes"] == snapshot(network)["bytes"]


class Tied(nn.Module):
    """An embedding tied to the head, two encoders with one weight, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
        self.head.weight = self.embedding.weight
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.trunk = nn.Linear(4, 4)

    def forward(self, ids: Tensor, image: Tensor) -> Tensor:
        mixed = self.first(self.embedding(ids)) + self.second(image)
        return self.head(self.trunk(torch.tanh(self.trunk(mixed))))


@pytest.mark.parametrize("method", ["ssf", "scale", "lora", ["ssf", "lora"]], ids=str)
def test_tied_weights_fold_right_and_what_is_no_site_keeps_its_own(method: Any) -> None:
    torch.manual_seed(0)
    network = Tied()
    robust = with_sets(adapt(network, {"ids": ":int64", "image": "4"}, method=method))
    inputs = {"ids": torch.tensor([1, 5, 8]), "image": torch.randn(3, 4)}
    for combination in ("ids", "image"):
        assert difference(robust, combination, inputs) < TOLERANCE
    folded = fold(robust, "ids")
    assert folded.first.weight is folded.second.weight
    assert folded.head.weight is not folded.embedding.weight
    assert torch.equal(folded.embedding.weight, network.embedding.weight)
    assert network.head.weight is network.embedding.weight


def test_a_shift_keeps_ties() -> None:
    folded = fold(with_sets(adapt(Tied(), {"ids": ":int64", "image": "4"}, method="bitfit")), "ids")
    assert folded.head.weight is folded.embedding.weight


# Export


@pytest.mark.parametrize("name", ["towers", "cameras"])
def test_torch_export_is_checked_against_eager(tmp_path: Path, name: str) -> None:
    network, options = make(name)
    robust, inputs = with_sets(adapt(network, **options, method=["ssf", "lora"])), draw(options["modalities"])
    combination = str(robust.combinations[-1])
    path = tmp_path / "new" / "folded.pt2"
    folded = fold(robust, combination, export=path, example=inputs)
    args, kwargs = prepare(robust, only(inputs, robust.modalities.combination(combination)))
    torch.testing.assert_close(torch.export.load(path).module()(*args, **kwargs), folded(*args, **kwargs))


@pytest.mark.parametrize(
    "name", ["towers", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cameras", "sequences"))]
)
def test_onnx_is_checked_against_eager(tmp_path: Path, name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network, options = make(name)
    robust, inputs = with_sets(adapt(network, **options)), draw(options["modalities"])
    combination = str(robust.combinations[0])
    path = tmp_path / "new" / "folded.onnx"
    folded = fold(robust, combination, onnx=path, example=inputs)
    args, kwargs = prepare(robust, only(inputs, robust.modalities.combination(combination)))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    tensors = [*kwargs.values()] or args[0]
    feed = {one.name: tensor.numpy() for one, tensor in zip(session.get_inputs(), tensors, strict=True)}
    (found,) = session.run(None, feed)
    torch.testing.assert_close(torch.from_numpy(found), folded(*args, **kwargs), rtol=1e-4, atol=1e-5)


def test_an_export_is_compared_with_what_it_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subsense.deployment.export.TOLERANCE", -1.0)
    with pytest.raises(FoldError, match=r"folded\.pt2: differs from what it was made of"):
        write_export(nn.Linear(4, 3), (torch.randn(2, 4),), {}, tmp_path / "folded.pt2")


class Branches(nn.Module):
    """Choose by the values of its input, which can't be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(left) if left.sum() > right.sum() else self.layer(right)


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    robust = with_sets(adapt(Branches(), {"left": "4", "right": "4"}))
    with pytest.raises(FoldError, match=r"torch\.export can't take this network, stopped by 'return self\.layer"):
        fold(robust, "left", export=tmp_path / "a.pt2", example=draw({"left": "4", "right": "4"}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("factor", "passes"), [(1 + 1e-6, True), (1.001, False), (float("nan"), False)])
def test_numbers_that_differ_are_refused(factor: float, passes: bool) -> None:
    x = torch.linspace(-1, 1, 5)
    if passes:
        compare("it", [x], [x * factor])
        return
    with pytest.raises(FoldError, match=r"it: differs from what it was made of by .* not to be used"):
        compare("it", [x], [x * factor])


def test_a_hook_of_the_users_own_sees_what_the_adapter_gives_folded_or_not() -> None:
    network, options = make("towers")
    network.left.register_forward_hook(lambda module, args, output: output.relu())
    assert difference(with_sets(adapt(network, **options)), "left", draw(TOWERS)) < TOLERANCE


def test_a_fold_that_is_not_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = make("towers")
    robust = with_sets(adapt(network, **options)).train()
    monkeypatch.setattr("subsense.deployment.fold._fold_site", lambda *_, decode: None)
    with pytest.raises(FoldError, match="the folded network: differs from what it was made of"):
        fold(robust, "left", example=draw(TOWERS))
    assert robust.training


@pytest.mark.parametrize(
    ("combination", "options", "error", "message"),
    [
        ("middle", {}, ModalityError, "unknown modality 'middle'"),
        ("right", {}, UntrainedCombination, "no adapter set was trained for right; trained: left"),
        ("left", {"onnx": "x.onnx"}, FoldError, "needs `example`"),
        ("left", {"export": "x.pt2"}, FoldError, "needs `example`"),
    ],
)
def test_refuses_to_fold(combination: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    network, needed = make("towers")
    robust = adapt(network, **needed, combinations=["left"])
    robust.mark_trained(["left"])
    before = snapshot(robust.eval())
    with pytest.raises(error, match=message):
        fold(robust, combination, **options)
    assert snapshot(robust) == before


def test_a_network_called_by_a_function_has_no_arguments_to_give() -> None:
    network, _ = make("towers")
    robust = with_sets(adapt(network, TOWERS, call=lambda network, inputs: network(**inputs)))
    folded, left = fold(robust, "left", example=draw(TOWERS)), only(draw(TOWERS), ["left"])
    torch.testing.assert_close(robust.filled(folded)(left), robust(left))
    with pytest.raises(FoldError, match="prepare: this network is called by a function"):
        prepare(robust, left)
