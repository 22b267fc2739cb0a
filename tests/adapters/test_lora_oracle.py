"""LoRA against peft, SSF against the formula written down in float64, and the published parameter count."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from subsense import SSF, LoRA, RobustModel
from subsense.adapters import Method

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(6, 5), (6,)),
    "Linear, tokens": (lambda: nn.Linear(6, 5, bias=False), (4, 6)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), (4, 7, 8)),
    "Conv2d, strided and padded": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), bias=False),
        (4, 7, 8),
    ),
    "Conv2d, pointwise": (lambda: nn.Conv2d(4, 6, 1), (4, 3, 3)),
    "Conv3d": (lambda: nn.Conv3d(3, 4, 2, padding=1), (3, 4, 3, 4)),
}
PLAIN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    # peft forgets the dilation and mixes groups: those are held against the weight that LoRA's paper writes
    "Conv2d, dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2), (4, 9, 8)),
    "Conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 6)),
    "Conv2d, depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, stride=2), (4, 9, 8)),
    "Conv2d, reflecting": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 5, 6)),
    "Conv1d, dilated groups": (lambda: nn.Conv1d(6, 6, 3, groups=3, dilation=2, padding="same"), (6, 9)),
}


class Pair(nn.Module):
    """Add two inputs and give the sum to one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(left + right)


def adapted(layer: nn.Module, shape: tuple[int, ...], method: Method, sharing: str = "independent") -> RobustModel:
    """Adapt a pair, with parameters that are not at their start."""
    axes = " ".join(map(str, shape)) + (":float64" if layer.weight.dtype == torch.float64 else "")
    robust = ss.adapt(Pair(layer), {"left": axes, "right": axes}, method=method, sharing=sharing)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.normal_()
    robust.mark_trained(robust.combinations)
    return robust.eval()


def row(robust: RobustModel, name: str) -> Tensor:
    """Give what is trained for "left": the first of the bank rows."""
    assert robust.router.row_names[0] == "left"
    return robust.adapter_parameters()[f"layer:{name}"][0].detach()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("rank", "alpha"), [(1, None), (3, 6.0), (4, 1.0)])
@pytest.mark.parametrize("kind", LAYERS)
def test_lora_gives_what_peft_gives(kind: str, rank: int, alpha: float | None) -> None:
    peft = pytest.importorskip("peft")
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(3, *shape)
    robust = adapted(layer, shape, LoRA(rank=rank, alpha=alpha))
    with torch.no_grad():
        found = robust({"left": x})
    other = Pair(make())
    other.layer.load_state_dict(robust.network.layer.state_dict())
    config = peft.LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=["layer"])
    other = peft.get_peft_model(other, config).eval()
    down, up = row(robust, "lora:down"), row(robust, "lora:up")
    matched = other.base_model.model.layer
    with torch.no_grad():
        matched.lora_A["default"].weight.copy_(down)
        matched.lora_B["default"].weight.copy_(up.T.reshape(matched.lora_B["default"].weight.shape))
        expected = other(left=x, right=torch.zeros_like(x))
        plain = robust.pretrained({"left": x})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - plain).abs().max() > 0.1
    torch.testing.assert_close(  # and so does what is left when both have merged it into the weight
        ss.fold(robust, "left").layer.weight, other.merge_and_unload().layer.weight, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", PLAIN)
def test_lora_is_a_low_rank_difference_of_the_weight(kind: str) -> None:
    make, shape = PLAIN[kind]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(3, *shape, dtype=torch.float64)
    robust = adapted(layer, shape, LoRA(rank=2, alpha=3))
    down, up = row(robust, "lora:down"), row(robust, "lora:up")
    with torch.no_grad():
        found = robust({"left": x})
        other = make().double()
        other.load_state_dict(layer.state_dict())
        other.weight += 3 / 2 * torch.einsum("ro,ri...->oi...", up, down)
        torch.testing.assert_close(found, other(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ss.fold(robust, "left").layer.weight, other.weight, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shared_lora_is_the_sum_of_peft_adapters() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    spec = dict.fromkeys(("a", "b", "c"), "6")

    def call(network: nn.Module, inputs: dict[str, Any]) -> Tensor:
        return network(sum(inputs.values()))

    robust = ss.adapt(layer, spec, call=call, method=LoRA(rank=2, alpha=4), sharing="additive")
    banks = robust.adapter_parameters()
    with torch.no_grad():
        for bank in banks.values():
            bank.normal_()
        found = robust.train()({"a": x})
    other = nn.Sequential(nn.Linear(6, 5))
    other[0].load_state_dict(layer.state_dict())
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0"])
    other = peft.get_peft_model(other, config, adapter_name="b").eval()
    other.add_adapter("c", config)
    with torch.no_grad():
        for index, name in ((1, "b"), (2, "c")):
            other.base_model.model[0].lora_A[name].weight.copy_(banks["network:lora:down"][index])
            other.base_model.model[0].lora_B[name].weight.copy_(banks["network:lora:up"][index].T)
        other.base_model.set_adapter(["b", "c"])
        torch.testing.assert_close(found, other(x), rtol=1e-5, atol=1e-5)


SCALED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "Linear": (lambda: nn.Linear(6, 5), (4, 6), -1),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, bias=False), (4, 7, 8), 1),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 3, 4), 1),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (4, 3, 3), 1),
    "LayerNorm": (lambda: nn.LayerNorm(6), (4, 6), -1),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 3, 3), 1),
}


@pytest.mark.parametrize("sharing", ["independent", "additive"])
@pytest.mark.parametrize("kind", SCALED)
def test_ssf_scales_and_shifts_each_channel(kind: str, sharing: str) -> None:
    make, shape, axis = SCALED[kind]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(3, *shape, dtype=torch.float64)
    robust = adapted(layer, shape, SSF(), sharing)
    used = 0 if sharing == "independent" else 1  # the set of "left", or what "right" costs when it is missing
    scale, shift = (robust.adapter_parameters()[f"layer:ssf:{name}"][used] for name in ("scale", "shift"))
    with torch.no_grad():
        expected = layer.eval()(x).movedim(axis, -1)
        expected = (expected * (1 + scale) + shift).movedim(-1, axis)
        torch.testing.assert_close(robust({"left": x}), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ss.fold(robust, "left")(x, 0 * x), expected, rtol=1e-12, atol=1e-12)


def test_ssf_has_the_published_number_of_parameters(shared: Path) -> None:
    """CMNeXt-B2 with four modalities: 0.3347 M parameters, counted on layers of its shapes (on the meta device)."""
    known = json.loads((shared / "reference" / "cmnext_b2_4modalities.json").read_text())
    with torch.device("meta"):
        layers = [layer for name, shape in known["state_dict"].items() if (layer := _layer(name, shape))]
        network = nn.Sequential(*layers)
    planned = ss.plan(network, "ssf")
    assert round(planned.parameters_per_row / 1e6, 4) == 0.3347
    assert len(planned.sites) == len(layers)


def _layer(name: str, shape: list[int]) -> nn.Module | None:
    if not name.endswith(".weight"):
        return None
    if len(shape) == 1:
        return nn.LayerNorm(shape)
    return nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2:])
