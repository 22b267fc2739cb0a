"""Adapters on top of linear layers whose frozen weights are kept in 8 and 4 bits."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import subsense as ss
from networks import draw, only, row_by_row, with_sets
from subsense.adapters.layers.quantised import decoded

SIZES = {"left": "32", "right": "32"}
Quantise = Callable[[nn.Module], nn.Module]


class Both(nn.Module):
    """(batch, 32), (batch, 32) -> (batch, 5), with and without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.norm = nn.Linear(32, 64), nn.Linear(32, 64, bias=False), nn.LayerNorm(64)
        self.inner, self.head = nn.Linear(64, 64, bias=False), nn.Linear(64, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.inner(self.norm((self.left(left) + self.right(right)).relu())).tanh())


def by_torchao(config: str, **options: Any) -> Quantise:
    def quantise(network: nn.Module) -> nn.Module:
        library = pytest.importorskip("torchao.quantization", reason="needs torchao: make quantised")
        library.quantize_(network, getattr(library, config)(**options))
        return network

    return quantise


class FourBits(nn.Linear):
    """As bitsandbytes' layers: a class of its own, whose weight holds two codes in each byte, in another shape."""

    support_avx512bf16_for_cpu = False

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None)
        self.scale = plain.weight.detach().abs().amax() / 7
        codes = (plain.weight.detach() / self.scale).round().to(torch.int8).flatten() + 8
        self.weight = Codes.of((codes[::2] * 16 + codes[1::2]).to(torch.uint8)[:, None])
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.weight.detach().as_subclass(Tensor)
        codes = torch.stack((pairs // 16, pairs % 16), -1).flatten().float() - 8
        return F.linear(x, (codes * self.scale).view(self.out_features, self.in_features), self.bias)


class EightBits(FourBits):
    """As that of bitsandbytes which rounds its inputs, too."""


class Codes(nn.Parameter):
    """A parameter of a class of its own."""

    @classmethod
    def of(cls, codes: Tensor) -> "Codes":
        return torch.Tensor._make_subclass(cls, codes, False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Codes":
        return memo.setdefault(id(self), Codes.of(self.data.clone()))


def by_hand(cls: type[FourBits]) -> Quantise:
    def quantise(network: nn.Module) -> nn.Module:
        for name, layer in list(network.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(network, name, cls(layer))
        return network

    return quantise


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the classes where bitsandbytes has its own."""
    module = ModuleType("bitsandbytes.nn")
    vars(module).update(Linear4bit=FourBits, Linear8bitLt=EightBits)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", module)


SERVED = {
    "torchao, 8 bits": by_torchao("Int8WeightOnlyConfig"),
    "torchao, 4 bits": by_torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4),
    "torchao, float8": by_torchao("Float8WeightOnlyConfig"),
    "4 bits": by_hand(FourBits),
}


def make(quantise: Quantise, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return quantise(Both().requires_grad_(False).eval())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", SERVED)
def test_adapters_act_on_top_and_fold_into_plain_weights(name: str, tmp_path: Path) -> None:
    network = make(SERVED[name])
    inputs, present = draw(SIZES, 6), torch.tensor([[1, 0], [0, 1], [1, 1]] * 2).bool()
    with torch.no_grad():
        before = network(**inputs)
    robust = ss.adapt(network, SIZES, method=["ssf", "lora"], sharing="additive")
    assert len(robust.plan.sites) == 5
    assert not robust.plan.out_of_reach
    assert torch.equal(robust(inputs), before)
    with_sets(robust)(inputs, present).square().sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in robust.banks.parameters())
    with torch.no_grad():
        mixed = robust(inputs, present)
        torch.testing.assert_close(mixed, row_by_row(robust, inputs, present))
        left = only(inputs, ["left"])
        folded = ss.fold(robust, "left", example=left)
        args, kwargs = ss.prepare(robust, left)
        torch.testing.assert_close(folded(*args, **kwargs), robust(left))
        ss.save(robust, tmp_path / "sets")
        assert torch.equal(ss.load(tmp_path / "sets", make(SERVED[name]))(inputs, present), mixed)
    assert {type(layer) for layer in folded.children()} == {nn.Linear, nn.LayerNorm}
    assert all(type(one) is nn.Parameter and one.dtype == torch.float32 for one in folded.parameters())
    robust.detach()
    with torch.no_grad():
        assert torch.equal(network(**inputs), before)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", SERVED)
def test_the_codes_stay_where_nothing_is_folded_into_the_weight(name: str) -> None:
    network = make(SERVED[name])
    robust = with_sets(ss.adapt(network, SIZES, method="shift", exclude=["norm"]))
    inputs = only(draw(SIZES), ["right"])
    folded = ss.fold(robust, "right", example=inputs)
    assert type(folded.left.weight) is type(network.left.weight)
    with torch.no_grad():
        torch.testing.assert_close(
            folded(*ss.prepare(robust, inputs)[0], **ss.prepare(robust, inputs)[1]), robust(inputs)
        )


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", SERVED)
def test_other_codes_have_another_fingerprint(name: str, tmp_path: Path) -> None:
    network, other = make(SERVED[name]), make(SERVED[name], seed=1)
    ss.save(with_sets(ss.adapt(network, SIZES)), tmp_path / "sets")
    for layer in ("left", "head"):  # so that the codes alone are others
        other.get_submodule(layer).bias = network.get_submodule(layer).bias
    with pytest.raises(ss.CheckpointError, match="weights"):
        ss.load(tmp_path / "sets", other)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", SERVED)
def test_they_are_calibrated_and_trained_and_the_network_is_not(name: str) -> None:
    network, inputs = make(SERVED[name]), draw(SIZES, 8)
    robust = ss.adapt(network, SIZES, method=["ssf", "lora"])
    ss.calibrate(robust, [inputs])
    ss.train(robust, [(inputs, torch.arange(8) % 5)], loss=F.cross_entropy, epochs=1, progress=False, safe=False)
    ss.fold(robust, "left", example=only(inputs, ["left"]), drop_absent=True)
    with pytest.raises(ss.TrainingError, match=r"its weight is of class \w+, no plain parameter, and can't be trained"):
        ss.finetune(robust, [(inputs, torch.arange(8) % 5)], loss=F.cross_entropy, epochs=1, progress=False)


def test_a_layer_that_quantises_its_inputs_too_is_refused_by_name() -> None:
    network = make(by_torchao("Int8DynamicActivationInt8WeightConfig"))
    with pytest.raises(ss.UnsupportedLayer, match=r"^left .*its inputs are quantised, too, .*Int8WeightOnlyConfig"):
        ss.adapt(network, SIZES)
    assert len(ss.plan(network, exclude=["left", "right", "inner", "head"]).sites) == 1


@pytest.mark.usefixtures("library")
def test_one_that_rounds_its_inputs_is_served_and_not_folded() -> None:
    robust = with_sets(ss.adapt(make(by_hand(EightBits)), SIZES))
    with pytest.raises(ss.FoldError, match=r"^fold: left \(EightBits\): .*round what they are given"):
        ss.fold(robust, "left")


@pytest.mark.usefixtures("library")
def test_one_that_packs_its_weight_on_a_cpu_is_refused_and_the_advice_is_right() -> None:
    network = make(by_hand(FourBits))
    for layer in (network.left, network.inner):
        layer.support_avx512bf16_for_cpu = True
    with pytest.raises(ss.UnsupportedLayer, match=r"^left .*support_avx512bf16_for_cpu = False"):
        ss.adapt(network, SIZES)
    for layer in (network.left, network.inner):
        layer.support_avx512bf16_for_cpu = False
    assert len(ss.adapt(network, SIZES).plan.sites) == 5


@pytest.mark.usefixtures("library")
def test_a_layer_that_computes_otherwise_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FourBits(nn.Linear(32, 8))
    assert decoded(layer).shape == (8, 32)
    forward = FourBits.forward
    monkeypatch.setattr(FourBits, "forward", lambda self, x: forward(self, x).relu())
    with pytest.raises(ss.UnsupportedLayer, match="isn't its decoded weight times its input"):
        decoded(layer)


def test_quantos_layers_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("optimum.quanto")
    vars(module).update(QLinear=FourBits)
    monkeypatch.setitem(sys.modules, "optimum.quanto", module)
    with pytest.raises(ss.UnsupportedLayer, match=r"^left \(FourBits\): it is quantised by quanto, .*or exclude it$"):
        ss.adapt(make(by_hand(FourBits)), SIZES)
