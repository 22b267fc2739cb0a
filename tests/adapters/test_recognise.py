"""A layer that nobody declared is known by what it computes, and folds right; what computes otherwise is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import subsense as ss
from look_alikes import RIGHT, WRONG, Base, Net
from networks import with_sets
from subsense.injection.site import Site


class Maps(nn.Module):
    """Add two maps and give the sum to a layer, and to a convolution that is always a site."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Conv2d(6, 3, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.layer(left + 2 * right))


class Turned(nn.Module):
    """A linear layer whose weight is (input, output)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, 6), self.weight).view(x.shape)


class Same(nn.Conv2d):
    """A convolution that pads by the size of its input."""

    def forward(self, x: Tensor) -> Tensor:
        pads = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[:1:-1]]
        padded = F.pad(x, [one for pad in pads for one in (pad // 2, pad - pad // 2)])
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight."""

    def standard(self) -> Tensor:
        flat = self.weight.flatten(1)
        return ((flat - flat.mean(1, True)) / flat.std(1, keepdim=True)).view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standard(), self.bias, self.stride, self.padding)


class Gained(Standardised):
    """The same with a gain."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def standard(self) -> Tensor:
        return super().standard() * self.gain


class ChannelNorm(nn.LayerNorm):
    """A LayerNorm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, 1)


class TwoWays(nn.Module):
    """ConvNeXt's norm: the attribute says where the channels are."""

    def __init__(self, data_format: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))
        self.data_format = data_format

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return F.layer_norm(x, (6,), self.weight, self.bias)
        normal = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
        return self.weight[:, None, None] * normal + self.bias[:, None, None]


class NormAct(nn.BatchNorm2d):
    """A BatchNorm with its activation inside, as timm has it."""

    def __init__(self, size: int, act: nn.Module | None = None) -> None:
        super().__init__(size)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True) if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class Hidden(nn.BatchNorm2d):
    """A BatchNorm whose activation is a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Deaf(nn.Conv2d):
    """A convolution that never adds a bias, though it has a place for one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, self.stride, self.padding)


def stirred(network: nn.Module, shape: str, method: Any = "ssf") -> ss.RobustModel:
    torch.manual_seed(0)
    for tensor in network.buffers():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    robust = ss.adapt(network, {"left": shape, "right": shape}, method=method, sharing="additive")
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.normal_(std=0.3)
    robust.mark_trained("all")
    return robust.eval()


def site(robust: ss.RobustModel) -> Site:
    (found,) = (one for one in robust.plan.sites if one.layer.path == "layer")
    return found


def check(robust: ss.RobustModel, *shape: int) -> None:
    """Fold equals unfolded, rows of a mixed batch equal row by row, for values and gradients."""
    x = {name: torch.randn(4, *shape) for name in ("left", "right")}
    present = torch.tensor([[True, False], [False, True], [True, True], [True, False]])
    with torch.no_grad():
        assert float((robust(x, present) - robust.pretrained(x, present)).abs().max()) > 1e-3
    robust.train()
    together = robust(x, present)
    alone = [robust({k: v[i : i + 1] for k, v in x.items()}, present[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    gradients = [
        torch.autograd.grad(y.square().sum(), list(robust.banks.parameters())) for y in (together, torch.cat(alone))
    ]
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    robust.eval()
    for name in ("left", "right"):
        args, kwargs = ss.prepare(robust, {name: x[name]})
        with torch.no_grad():
            torch.testing.assert_close(
                ss.fold(robust, name)(*args, **kwargs), robust({name: x[name]}), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("method", ["ssf", "norm"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_norm_is_known_without_a_declaration(name: str, method: str) -> None:
    cls, by = RIGHT[name]
    shape = "6 5" if cls.axis == 1 else "5 6"
    robust = stirred(Net(cls(), cls.axis), shape, method=method)
    assert (site(robust).layer.offset, site(robust).layer.axis) == (by, cls.axis)
    check(robust, *map(int, shape.split()))


@pytest.mark.parametrize("name", WRONG)
def test_what_computes_otherwise_is_no_site(name: str) -> None:
    planned = ss.plan(Net(WRONG[name]()))
    assert [site.layer.path for site in planned.sites] == ["head"]
    assert "layer.weight" in planned.out_of_reach


LAYERS = {
    "turned linear": (lambda: Net(Turned()), "5 6", "linear"),
    "padded as its input asks": (lambda: Maps(Same(6, 6, 3, stride=2)), "6 7 8", "conv"),
    "padded, in groups": (lambda: Maps(Same(6, 6, 3, stride=2, groups=3, bias=False)), "6 7 8", "conv"),
    "standardised weight with a gain": (lambda: Maps(Gained(6, 6, 3, padding=1)), "6 5 4", "gain"),
    "channel-first layer norm": (lambda: Maps(ChannelNorm(6)), "6 5 4", "norm"),
    "two ways, first": (lambda: Maps(TwoWays("channels_first")), "6 5 4", "norm"),
    "two ways, last": (lambda: Net(TwoWays("channels_last")), "5 6", "norm"),
    "activation behind": (lambda: Maps(NormAct(6)), "6 5 4", "norm"),
    "no activation behind": (lambda: Maps(NormAct(6, nn.Identity())), "6 5 4", "norm"),
    "a bias that is never added": (lambda: Maps(Deaf(6, 6, 3, bias=False)), "6 5 4", "conv"),
}  # fmt: skip


@pytest.mark.parametrize("method", ["ssf", ["ssf", "lora"]])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_known_by_what_it_computes(name: str, method: Any) -> None:
    make, shape, kind = LAYERS[name]
    robust = stirred(make(), shape, method)
    assert site(robust).layer.kind.name == kind
    assert robust.plan.out_of_reach == {}
    check(robust, *map(int, shape.split()))


def test_a_place_for_a_bias_that_is_never_added_gets_no_shift() -> None:
    assert site(stirred(Maps(Deaf(6, 6, 3, bias=False)), "6 5 4")).label == "ssf (scale)"


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Standardised(6, 6, 3), "isn't linear in its 'weight'"),
        (Hidden(6), "isn't moved by its 'bias'"),
        (Deaf(6, 6, 3), "isn't moved by its 'bias'"),
    ],
)
def test_one_of_torchs_that_computes_otherwise_is_refused_with_the_reason(layer: nn.Module, why: str) -> None:
    with pytest.raises(ss.UnsupportedLayer, match=f"layer .*forward of its own, and its output {why}.*; exclude it"):
        ss.plan(Maps(layer))
    ss.plan(Maps(layer), exclude=["layer"])


def test_classes_alike_but_for_an_attribute_are_told_apart() -> None:
    network = nn.Sequential(TwoWays("channels_first"), TwoWays("channels_last"), TwoWays("channels_first"))
    assert [one.layer.axis for one in ss.plan(network).sites] == [1, -1, 1]


def test_an_activation_that_two_norms_share_is_refused() -> None:
    act = nn.ReLU()
    network = nn.Sequential(NormAct(6), NormAct(6))
    for norm in network:
        norm.drop = act
    with pytest.raises(ss.UnsupportedLayer, match="its drop is that of other layers, too"):
        ss.plan(network)


class Gated(Base):
    """A norm with a gate behind it, where one is given."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if gate is None else y * gate


class WithGate(Net):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.layer(left, right))


def test_a_layer_that_is_given_more_than_one_tensor_is_refused() -> None:
    robust = stirred(WithGate(Gated()), "5 6")
    with pytest.raises(ss.UnsupportedLayer, match=r"calls it with 2 arguments.*exclude=\['layer'\]"):
        robust({"left": torch.randn(2, 5, 6)})


def test_shift_leaves_a_norm_without_a_bias_alone() -> None:
    planned = ss.plan(Net(RIGHT["root mean square"][0]()), "shift")
    assert [one.layer.path for one in planned.sites] == ["head"]


class First(nn.Module):
    """A linear layer over the first axis behind the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oi,nit->not", self.weight, x) + self.bias[:, None]


def test_a_declared_channel_first_linear_layer_has_its_low_rank_path_there() -> None:
    torch.manual_seed(0)
    declared = [ss.LayerClass(First, kind="linear", axis=1)]
    robust = ss.adapt(Net(First()), {"left": "6 6", "right": "6 6"}, method="lora", layers=declared, sharing="additive")
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.normal_(std=0.3)
    robust.mark_trained("all")
    check(robust.eval(), 6, 6)


def test_gpt2s_linear_layer_is_known() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    robust = stirred(Net(utils.Conv1D(6, 6)), "5 6", "lora")
    assert (site(robust).layer.kind.name, site(robust).layer.out_axis) == ("linear", 1)
    check(robust, 5, 6)


class Choosing(nn.Linear):
    """A router, as mixtures of experts have it: a linear layer that gives scores and what it chose."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = super().forward(x)
        return scores.softmax(-1), scores.argmax(-1)


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.router, self.head = nn.Linear(40, 40), Choosing(40, 2), nn.Linear(40, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.body(a + b)
        scores, chosen = self.router(x)
        return self.head(x * scores.gather(-1, chosen[:, None]))


def test_a_router_is_left_alone_and_the_plan_says_so() -> None:
    robust = with_sets(ss.adapt(Mixture(), {"a": "40", "b": "40"}, method=["ssf", "lora"]))
    assert [site.key for site in robust.plan.sites] == ["body", "head"]
    assert robust.plan.out_of_reach == {"router.weight": 80, "router.bias": 2}
    assert "router.weight" in str(robust.plan)
    inputs = {"a": torch.randn(5, 40)}
    ss.fold(robust, "a", example=inputs)  # it checks the numbers
