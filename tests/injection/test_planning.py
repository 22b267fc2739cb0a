"""Which layers become sites: made without touching the network, and nothing is left out in silence."""

import sys
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from networks import METHODS, make, snapshot
from subsense import LayerClass, LoRA, PlanError, UnmatchedPattern, UnsupportedLayer, adapt, plan


class ChannelNorm(nn.Module):
    """A channel-first LayerNorm with raw parameters, as ConvNeXt and others have."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(x.movedim(1, -1), self.gain.shape).movedim(-1, 1)
        shape = (-1, *[1] * (x.dim() - 2))
        return normed * self.gain.view(shape) + self.offset.view(shape)


CHANNEL_NORM = LayerClass(ChannelNorm, kind="norm", axis=1, weight="gain", bias="offset")


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(-1)


class Renamed(nn.Linear):
    """A subclass that computes what its base does."""


class Standardised(nn.Conv1d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / weight.norm(), bias)


class TwoHeads(nn.Module):
    """An embedding tied to one head, a trunk used twice, and an encoder for each of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.encoders = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.trunk = nn.Linear(4, 4)
        self.again = self.trunk
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight


def keys(found: Any) -> list[str]:
    return [site.key for site in found.sites]


SHAPES = {
    "ssf": {"scale": (8,), "shift": (8,)},
    "scale": {"scale": (8,)},
    "shift": {"shift": (8,)},
    "bitfit": {"bias": (8,)},
    "lora": {"down": (4, 4), "up": (4, 8)},
}


@pytest.mark.parametrize("method", SHAPES)
def test_the_parameters_of_a_linear_layer(method: str) -> None:
    (site,) = plan(nn.Linear(4, 8), method).sites
    assert list(site.adapters.values()) == [SHAPES[method]]


COUNTS = {  # towers: 4 -> 8, 6 -> 8 without bias, LayerNorm 8, 8 -> 3
    "ssf": 2 * (8 + 8 + 8 + 3),
    "scale": 8 + 8 + 8 + 3,
    "shift": 8 + 8 + 8 + 3,
    "bitfit": 8 + 8 + 3,
    "norm": 2 * 8,
    "lora": 4 * (4 + 8 + 6 + 8 + 8 + 3),
}


@pytest.mark.parametrize("method", COUNTS)
def test_counts_of_a_small_network(method: str) -> None:
    network, _ = make("towers")
    found = plan(network, method)
    assert found.parameters_per_row == COUNTS[method]
    assert found.network_parameters == (4 * 8 + 8) + 6 * 8 + 2 * 8 + (8 * 3 + 3)
    assert found.share == COUNTS[method] / found.network_parameters
    both = plan(network, [method, LoRA(rank=2)] if method != "lora" else ["ssf", "lora"])
    assert both.parameters_per_row == COUNTS[method] + (2 * 37 if method != "lora" else COUNTS["ssf"])


def test_the_four_projections_of_attention_are_sites() -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=7)
    found = plan(nn.Sequential(attention), LoRA(rank=1))
    assert keys(found) == ["0.query", "0.key", "0.value", "0.output"]
    assert [site.num_parameters for site in found.sites] == [8 + 8, 5 + 8, 7 + 8, 8 + 8]
    assert not found.out_of_reach


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_planning_and_failing_to_adapt_leave_the_network_alone(method: Any) -> None:
    network, options = make("cameras")
    before = snapshot(network.train())
    plan(network, method)
    with pytest.raises(UnmatchedPattern):
        adapt(network, **options, method=method, exclude=["stem.*"])
    assert snapshot(network) == before


def test_tied_weights_and_shared_modules_are_one_site() -> None:
    network = TwoHeads()
    network.encoders[1].weight = network.encoders[0].weight
    found = plan(network)
    assert keys(found) == ["encoders.0", "trunk", "head"]
    assert [site.modules for site in found.sites] == [("encoders.0", "encoders.1"), ("trunk",), ("head",)]
    assert found.network_parameters == 28 + 16 + 4 + 4 + 20 + 7
    assert found.parameters_per_row == 2 * (4 + 4 + 7)


def test_what_no_site_reaches_is_named() -> None:
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4, bias=False), nn.Bilinear(4, 4, 1, bias=False))
    assert plan(network).out_of_reach == {"0.weight": 20, "2.weight": 16}
    assert plan(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), include=["0"]).out_of_reach == {
        "1.weight": 8,
        "1.bias": 2,
    }


def test_the_printed_table() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8), nn.Embedding(500, 3))
    assert str(plan(network, "ssf")).splitlines() == [
        "module  class    adapter      channels  parameters",
        "------  -------  -----------  --------  ----------",
        "0       Linear   ssf                 8          16",
        "1       RMSNorm  ssf (scale)         8           8",
        "",
        "2 sites, 24 parameters per bank row, 1.55% of the network's 1,548",
        "out of reach (1,500 parameters):",
        "  2.weight (1,500)",
    ]
    assert str(plan(nn.Linear(1, 1))).splitlines()[-1] == "every parameter of the network is within reach of a site"


def test_include_and_exclude_choose_by_any_path() -> None:
    network = TwoHeads()
    assert keys(plan(network, include=["encoders.*", "head"])) == ["encoders.0", "encoders.1", "head"]
    assert keys(plan(network, exclude=["encoders.*"])) == ["trunk", "head"]
    assert keys(plan(network, include=["*"], exclude=["again"])) == ["encoders.0", "encoders.1", "head"]


def test_a_pattern_that_matches_nothing_names_the_near_miss() -> None:
    network = TwoHeads()
    with pytest.raises(UnmatchedPattern, match=r"include: pattern 'trunc' matches no layer.* Did you mean 'trunk'\?"):
        plan(network, include=["trunc"])
    with pytest.raises(UnmatchedPattern, match=r"exclude: pattern 'encoder\.\*' matches no layer"):
        plan(network, exclude=["encoder.*"])
    with pytest.raises(UnmatchedPattern, match="'embedding' matches no layer that an adapter could serve"):
        plan(network, exclude=["embedding"])


def test_names_are_looked_up_and_only_wildcards_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    module = sys.modules["subsense.injection.planning"]  # `subsense.plan` itself is the function
    monkeypatch.setattr(module, "fnmatchcase", lambda *pair: compared.append(pair) or fnmatchcase(*pair))
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
    names = [str(number) for number in range(20)]
    assert keys(plan(network, include=names)) == names
    assert not compared
    assert keys(plan(network, include=["1[0-2]", "?"], exclude=["3", "[!03-9]*"])) == list("0456789")
    assert compared


def test_a_layer_named_in_full_must_be_served() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with pytest.raises(UnsupportedLayer, match="include: 0 is no site for norm"):
        plan(network, "norm", include=["0", "1"])
    with pytest.raises(UnsupportedLayer, match="include: 1 is no site for lora"):
        plan(network, "lora", include=["?", "1"])


def test_a_norm_without_bias_gets_its_scale_only() -> None:
    (site,) = plan(nn.RMSNorm(4), "ssf").sites
    assert list(site.adapters.values()) == [{"scale": (4,)}]
    assert plan(nn.RMSNorm(4), "norm").parameters_per_row == 4
    with pytest.raises(UnsupportedLayer, match=r"0 \(RMSNorm\): 'shift' can't serve it.*exclude=\['0'\]"):
        plan(nn.Sequential(nn.RMSNorm(4), nn.Linear(4, 4)), "shift")
    assert keys(plan(nn.Sequential(nn.RMSNorm(4), nn.Linear(4, 4)), "shift", exclude=["0"])) == ["1"]


def test_layers_without_affine_or_bias() -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4, elementwise_affine=False))
    assert keys(plan(network, "ssf")) == ["0", "1"]
    for method in ("bitfit", "norm"):
        with pytest.raises(PlanError, match=f"no layer of Sequential is a site for {method}"):
            plan(network, method)


def test_a_declared_class_is_served() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), ChannelNorm())
    assert keys(plan(network)) == ["0"]
    found = plan(network, layers=[CHANNEL_NORM])
    assert keys(found) == ["0", "1"]
    assert found.sites[1].layer.axis == 1
    assert not found.out_of_reach


LINEAR_4 = nn.Linear(4, 4)


def parametrized(name: str) -> nn.Module:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    return parametrize.register_parametrization(nn.Linear(4, 4), name, Noisy())


def replaced() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: OwnLinear(4, 4),
            r"0 \(OwnLinear\): class OwnLinear has a forward of its own, and its output isn't moved by its 'bias'",
        ),
        (lambda: Standardised(4, 4, 1), r"0 \(Standardised\): class Standardised has a forward of its own"),
        (replaced, r"0 \(Linear\): its forward was replaced on the instance"),
        (lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "its weight is computed .*prune.remove"),
        (lambda: parametrized("bias"), "its bias is computed"),
    ],
)
def test_refuses_a_layer_it_cannot_serve_unless_excluded(layer: Any, message: str) -> None:
    network = nn.Sequential(layer(), nn.Linear(4, 4))
    with pytest.raises(UnsupportedLayer, match=message):
        plan(network)
    assert keys(plan(network, exclude=["0"])) == ["1"]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("exclude", [[], ["0"]])
def test_refuses_a_network_whose_sizes_are_not_known_yet(exclude: list[str]) -> None:
    with pytest.raises(UnsupportedLayer, match=r"0 \(LazyLinear\): its size isn't known yet; run the network once"):
        plan(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4)), exclude=exclude)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"weight": "gamma"},
            r"1 \(ChannelNorm\): declared with weight 'gamma', but has no such parameter; it has \['gain', 'o",
        ),
        (
            {"weight": "gain"},
            "declared with bias 'bias', but has no such parameter;.*bias=None where the class adds none",
        ),
        ({"weight": "gain", "bias": None, "kind": "linear"}, r"kind 'linear', but its weight 'gain' has shape \(4,\)"),
    ],
)
def test_refuses_a_declaration_that_does_not_fit(declared: dict[str, Any], message: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), ChannelNorm())
    layers = [LayerClass(ChannelNorm, **{"kind": "norm", "axis": 1} | declared)]
    with pytest.raises(UnsupportedLayer, match=message):
        plan(network, layers=layers)
    assert keys(plan(network, layers=layers, exclude=["1"])) == ["0"]


def test_refuses_declarations_of_classes_that_are_not_there() -> None:
    with pytest.raises(PlanError, match="the network has no layer of class ChannelNorm"):
        plan(nn.Linear(4, 4), layers=[CHANNEL_NORM])
    with pytest.raises(PlanError, match=r"expected LayerClass\(...\) or AttentionClass\(...\), but found <class"):
        plan(nn.Linear(4, 4), layers=[ChannelNorm])
    with pytest.raises(PlanError, match="ChannelNorm is declared twice"):
        plan(ChannelNorm(), layers=[CHANNEL_NORM, CHANNEL_NORM])


def test_a_subclass_that_changes_nothing_is_served() -> None:
    assert keys(plan(nn.Sequential(Renamed(4, 4)))) == ["0"]
    assert keys(plan(nn.Sequential(nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4)))) == ["0"]


def test_refuses_to_tie_layers_of_different_kinds() -> None:
    network = nn.Sequential(nn.Conv1d(4, 4, 1), nn.ConvTranspose1d(4, 4, 1))
    network[1].weight = network[0].weight
    with pytest.raises(
        UnsupportedLayer, match=r"1 \(ConvTranspose1d\) shares its weight with 0 \(Conv1d\).*exclude=\['1'\]"
    ):
        plan(network)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sff"}, "unknown method 'sff'; .* Did you mean 'ssf'?"),
        ({"method": []}, "expected at least one method"),
        ({"method": ["ssf", "ssf"]}, r"each at most once, but found \['ssf', 'ssf'\]"),
        ({"method": 3}, "expected a name .* or an object such as .*, but found 3"),
        ({"include": "head"}, r"include: expected a list of patterns, but found the string 'head'; write \['head'\]"),
        ({"exclude": "head"}, "exclude: expected a list of patterns"),
    ],
)
def test_refuses_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(nn.Linear(4, 4), **arguments)


def test_lora_refuses_a_rank_below_one() -> None:
    with pytest.raises(PlanError, match="expected rank to be an integer above 0, but found 0"):
        LoRA(rank=0)
