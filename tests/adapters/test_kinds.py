"""One table says what is asked of a kind of layer; each of torch's layers has its entry, and its fast way to run."""

import pytest
import torch
from torch import nn

import subsense as ss
from subsense.adapters.layers.describe import describe
from subsense.adapters.layers.kinds import KINDS
from subsense.adapters.layers.layer import Layer
from subsense.testing import LAYER_KINDS

RUN = {
    "Linear", "Linear, no bias", "Conv1d", "Conv2d, groups", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d",
    "BatchNorm2d, no affine", "LayerNorm", "LayerNorm, two axes", "LayerNorm, no affine", "RMSNorm",
}  # fmt: skip
NO_PATH = ("MultiheadAttention", "declared")


def layer_of(module: nn.Module) -> Layer:
    layer = next(layer for _, layer in describe(module))
    assert isinstance(layer, Layer)
    return layer


@pytest.mark.parametrize("name", [name for name in LAYER_KINDS if not name.startswith(NO_PATH)])
def test_a_layer_run_with_its_own_parameters_gives_its_own_output(name: str) -> None:
    torch.manual_seed(0)
    module = LAYER_KINDS[name].make().eval()
    layer = layer_of(module)
    assert (layer.run is not None) == (name in RUN)  # a change of torch's classes would cost all their speed
    if layer.run is None:
        return
    x = torch.randn(2, *map(int, LAYER_KINDS[name].axes.split()))
    weight = layer.weight.read(module)
    weight = torch.ones(layer.features) if weight is None else weight
    bias = layer.bias.read(module) if layer.bias else None
    torch.testing.assert_close(layer.run.forward(module, x, weight, bias), module(x))


def test_a_class_that_torch_runs_otherwise_is_not_run_by_us() -> None:
    assert layer_of(nn.SyncBatchNorm(4)).run is None


@pytest.mark.parametrize("name", [name for name in LAYER_KINDS if not name.startswith(NO_PATH)])
def test_scaling_the_weight_scales_the_output(name: str) -> None:
    torch.manual_seed(0)
    module = LAYER_KINDS[name].make().eval()
    layer = layer_of(module)
    weight = layer.weight.read(module)
    if weight is None:
        return
    x, scale = torch.randn(2, *map(int, LAYER_KINDS[name].axes.split())), torch.rand(layer.features)
    with torch.no_grad():
        bias = layer.bias.read(module) if layer.bias else None
        if bias is not None:
            bias.zero_()
        shape = [-1] + [1] * (x.dim() - 2) if layer.axis in (1, 1 - x.dim()) else list(layer.features)
        expected = module(x) * scale.view(shape)
        weight.copy_(layer.kind.scale(layer, weight, scale))
        torch.testing.assert_close(module(x), expected)


def test_a_kind_that_cannot_be_declared_is_refused() -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    declared = ss.LayerClass(Own, kind="conv", axis=-1)
    with pytest.raises(ss.UnsupportedLayer, match="kind 'conv'; expected one of linear, norm"):
        ss.plan(nn.Sequential(Own(2, 2)), layers=[declared])
    assert [name for name, kind in KINDS.items() if kind.product is None] == ["norm", "gain", "table"]
