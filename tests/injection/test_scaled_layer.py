"""A layer that takes its adapters into its weight gives what plain operations on its output give."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import with_sets
from subsense import RobustModel
from subsense.injection.scaled_layer import Scaling

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 10), (90, 20, 6)),
    "linear, no bias": (lambda: nn.Linear(6, 10, bias=False), (90, 20, 6)),
    "linear, one axis": (lambda: nn.Linear(6, 10), (1800, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2), (4, 4, 1500)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=1), (4, 4, 30, 30)),
    "conv2d, no bias": (lambda: nn.Conv2d(4, 6, 1, bias=False), (4, 4, 30, 30)),
    "conv2d, in groups": (lambda: nn.Conv2d(6, 12, 3, groups=3), (4, 6, 24, 24)),
    "conv2d, by channel": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (4, 8, 24, 24)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, padding=1), (3, 2, 8, 24, 12)),
}
GAMMAS = {"near one": (1.0, 0.2), "some negative": (0.0, 2.0), "near zero": (0.0, 1e-9), "zero": (0.0, 0.0)}
METHODS = ["ssf", "scale", "shift", "bitfit", ["scale", "shift"], ["shift", "ssf"]]
SERVED = [(name, method) for name in LAYERS for method in METHODS if method != "bitfit" or "no bias" not in name]


class Between(nn.Module):
    """Put a layer between an operation that wants its gradient and one that keeps its output."""

    def __init__(self, layer: nn.Module, after: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.first, self.layer, self.after = nn.Identity(), layer, after

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.after(self.layer(torch.sin(left + right)))


def adapted(name: str, method: Any = "ssf", after: Any = torch.tanh) -> tuple[RobustModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    axes = " ".join(map(str, shape[1:])) + ":float64"
    network = Between(make().double(), after)
    robust = with_sets(ss.adapt(network, {"left": axes, "right": axes}, method=method)).train()
    return robust, {"left": torch.randn(shape, dtype=torch.float64)}


def plainly(robust: RobustModel) -> RobustModel:
    """Give the same model with the layer's own output adapted, in plain operations."""
    other = copy.deepcopy(robust)
    other.injection.folds = False
    other.injection.saved.recall = lambda *args: None
    return other


def gradients(robust: RobustModel, batch: dict[str, Tensor]) -> list[Tensor]:
    output = robust(batch)
    output.square().sum().backward()
    found = [parameter.grad for parameter in robust.adapter_parameters().values()]
    assert all(one is not None for one in found)
    kept = [one.clone() for one in found if one is not None]
    robust.zero_grad()
    return [output.detach(), *kept]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-9 * max(1, other.abs().max())


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gather what ran scaled."""
    found: list[str] = []
    run = Scaling.__call__

    def watched(self: Scaling, *args: Any) -> Tensor:
        found.append(self.layer.path)
        return run(self, *args)

    monkeypatch.setattr(Scaling, "__call__", watched)
    return found


@pytest.mark.parametrize(("name", "method"), SERVED, ids=str)
def test_outputs_and_gradients_are_those_of_plain_operations(name: str, method: Any, folded: list[str]) -> None:
    robust, batch = adapted(name, method)
    expected = gradients(plainly(robust), batch)
    assert not folded
    for _ in range(2):
        assert_close(gradients(robust, batch), expected)
    assert folded == ["layer"] * 2


@pytest.mark.parametrize(("mean", "spread"), GAMMAS.values(), ids=GAMMAS)
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_gradients_are_right_whatever_gamma(name: str, mean: float, spread: float) -> None:
    robust, batch = adapted(name)
    with torch.no_grad():
        scale = robust.adapter_parameters()["layer:ssf:scale"]
        scale.copy_(mean + spread * torch.randn_like(scale) - 1)
    expected = gradients(plainly(robust), batch)
    for _ in range(2):
        for one, other in zip(gradients(robust, batch), expected, strict=True):
            assert (one - other).abs().max() <= 1e-6 * max(1e-6, other.abs().max())


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_gradients_reach_what_is_before_the_layer(name: str) -> None:
    robust, batch = adapted(name)
    other, found = plainly(robust), []
    for one in (robust, other):
        x = batch["left"].clone().requires_grad_()
        one({"left": x})
        found.append(torch.autograd.grad(one({"left": x}).square().sum(), x)[0])
    assert_close(found[:1], found[1:])


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_gradients_have_gradients(name: str, again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subsense.injection.scaled_layer.SMALLEST", 9.0 if again else 0.1)
    module = LAYERS[name][0]().double().requires_grad_(False)
    site = ss.plan(module).sites[0]
    assert site.layer.run is not None
    scaling = Scaling(site.layer, module, site.layer.run)
    small = {"linear": (3, 6), "conv2d": (1, 4, 4, 4)}[name]
    x, scale, shift = (
        torch.randn(shape, dtype=torch.float64).mul_(0.1).requires_grad_()
        for shape in (small, site.layer.features, site.layer.features)
    )

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        rows = [(next(iter(site.adapters)), {"scale": scale, "shift": shift})]
        return scaling(x, rows, True)

    assert torch.autograd.gradcheck(run, (x, scale, shift))
    assert torch.autograd.gradgradcheck(run, (x, scale, shift))


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_what_changes_the_output_in_place_is_respected(name: str) -> None:
    robust, batch = adapted(name, after=lambda y: y.relu_())
    other, _ = adapted(name, after=torch.relu)
    for _ in range(3):
        assert_close(gradients(robust, batch), gradients(plainly(other), batch))
    assert robust.injection.saved.state("layer") == "restless"


def test_every_way_gives_the_same_bits(folded: list[str]) -> None:
    robust, batch = adapted("conv2d")
    first, again, third = (robust(batch).detach() for _ in range(3))
    with torch.no_grad():
        without = robust(batch)
    assert all(torch.equal(one, first) for one in (again, third, without))
    assert len(folded) == 4


def test_autocast_and_small_inputs_are_left_to_the_hook(folded: list[str]) -> None:
    torch.manual_seed(0)
    robust = with_sets(ss.adapt(Between(nn.Linear(6, 10)), {"left": "20 6", "right": "20 6"})).train()
    inputs = torch.randn(90, 20, 6)
    with torch.autocast("cpu", torch.bfloat16):
        robust({"left": inputs}).sum().backward()
    robust({"left": inputs[:1]}).sum().backward()
    assert not folded
    robust({"left": inputs}).sum().backward()
    assert folded == ["layer"]


@pytest.mark.parametrize("mode", ["reflect", "same"])
def test_a_padding_of_another_kind_is_left_to_the_hook(mode: str) -> None:
    options: Any = {"padding": "same"} if mode == "same" else {"padding": 1, "padding_mode": mode}
    module = nn.Conv2d(2, 2, 3, **options)
    assert ss.plan(module).sites[0].layer.run is None


class Same(nn.Module):
    """Give what it got, the very tensor, as long as its weight is one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        return x if bool((self.weight == 1).all()) else x * self.weight


def test_a_layer_that_hands_on_what_it_got_is_adapted_too() -> None:
    robust = with_sets(
        ss.adapt(
            Between(nn.Sequential(nn.Linear(6, 10), Same())),
            {"left": "20 6", "right": "20 6"},
            layers=[ss.LayerClass(Same, kind="norm", axis=-1, bias=None)],
        )
    )
    batch = {"left": torch.randn(90, 20, 6)}
    with torch.no_grad():
        torch.testing.assert_close(robust(batch), plainly(robust)(batch))


def test_a_forward_that_somebody_puts_on_stays(folded: list[str]) -> None:
    robust, batch = adapted("linear")
    module, calls = robust.network.layer, []
    ours = module.forward

    def theirs(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return ours(x)

    module.forward = theirs
    expected = plainly(robust)(batch).detach()
    calls.clear()
    assert_close([robust(batch).detach()], [expected])
    robust.pretrained(batch)
    network = robust.detach()
    network(batch["left"], batch["left"])
    assert len(calls) == 3  # to train, without adapters, and detached
    assert vars(module)["forward"] is theirs


@pytest.mark.parametrize("rows", [90, 1])
def test_a_hook_put_on_first_changes_what_the_adapter_gave(rows: int) -> None:
    """It acts after the adapter, as on the folded network, whether the layer takes its adapters in or not."""
    robust, batch = adapted("linear")
    batch = {"left": batch["left"][:rows]}
    robust.mark_trained(robust.combinations)
    folded = ss.fold(robust.eval(), "left")
    for network in (robust.network, folded):
        network.layer.register_forward_hook(lambda module, args, y: 2 * y, prepend=True)
    with torch.no_grad():
        torch.testing.assert_close(robust(batch), folded(batch["left"], torch.zeros_like(batch["left"])))


def test_a_forward_that_does_not_call_ours_is_adapted_all_the_same() -> None:
    robust, batch = adapted("linear")
    expected = robust(batch).detach()
    robust.network.layer.forward = lambda x: nn.Linear.forward(robust.network.layer, x)
    torch.testing.assert_close(robust(batch).detach(), expected)
