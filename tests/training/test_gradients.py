"""Gradients that a zero branch makes explode: found on the first batch, clipped where they are, said, and named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import subsense as ss
from subsense.training import gradients

MODALITIES = {"left": "8", "right": "8"}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b, F.cosine_similarity(a, b)[:, None]], 1)


def normalised(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([F.normalize(a), F.normalize(b)], 1)


def rooted(a: Tensor, b: Tensor) -> Tensor:
    """Divide by a root that has no slope at zero, whatever guards the division."""
    return torch.cat([one / one.square().sum(1, keepdim=True).sqrt().clamp(min=1e-3) for one in (a, b)], 1)


def rms(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([F.rms_norm(a, a.shape[1:], eps=1e-12), F.rms_norm(b, b.shape[1:], eps=1e-12)], 1)


def coarse_rms(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([F.rms_norm(a, a.shape[1:], eps=1e-8), F.rms_norm(b, b.shape[1:], eps=1e-8)], 1)


def plain(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], 1)


class Two(nn.Module):
    """Fuse two encoders without biases: what is fed zeros is zero."""

    def __init__(self, fuse: Any, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fuse = fuse
        self.a, self.b = nn.Linear(8, 16, bias=bias), nn.Linear(8, 16, bias=bias)
        self.head = nn.Linear(33 if fuse is cosine else 32, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.fuse(self.a(left), self.b(right)))


def batches(number: int = 1, rows: int = 32) -> list[tuple[dict[str, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rule = torch.randn(2, 8, 3, generator=generator)
    inputs = [{name: torch.randn(rows, 8, generator=generator) for name in MODALITIES} for _ in range(number)]
    return [(one, (one["left"] @ rule[0] + one["right"] @ rule[1]).argmax(1)) for one in inputs]


def train(robust: ss.RobustModel, data: Any, **options: Any) -> Any:
    return ss.train(robust, data, loss=F.cross_entropy, **{"epochs": 1, "progress": False, **options})


@pytest.mark.parametrize(("fuse", "size"), [(normalised, 1e9), (cosine, 1e4), (rms, 1e2)])
def test_sites_are_found_with_their_combination_and_said(fuse: Any, size: float) -> None:
    with pytest.warns(UserWarning, match=r"the first gradients explode at b \(.*e\+\d+ with left\); a \(") as told:
        report = train(ss.adapt(Two(fuse), MODALITIES), batches())
    assert {site: list(found.norms) for site, found in report.steep.items()} == {"b": ["left"], "a": ["right"]}
    assert all(found.norms[one] > size for found, one in ((report.steep["b"], "left"), (report.steep["a"], "right")))
    assert "a branch that it makes exactly zero" in str(told[0].message)
    assert "gradients exploded at b: " in str(report)
    assert "; clipped there to 1" in str(report)
    assert json.loads(json.dumps(report.as_dict()))["steep"]["b"]["norms"]["left"] > size


def test_what_is_steep_and_does_no_harm_is_clipped_without_a_warning() -> None:
    report = train(ss.adapt(Two(coarse_rms), MODALITIES), batches())
    assert {site: list(found.norms) for site, found in report.steep.items()} == {"b": ["left"], "a": ["right"]}
    assert all(100 < max(found.norms.values()) / found.limit < 1e4 for found in report.steep.values())
    assert "gradients were steep at b: " in str(report)


@pytest.mark.parametrize(("fuse", "bias"), [(plain, False), (normalised, True), (cosine, True)])
def test_gradients_like_others_are_left_alone(fuse: Any, bias: bool) -> None:
    assert train(ss.adapt(Two(fuse, bias), MODALITIES), batches()).steep == {}


@pytest.mark.parametrize(
    "cure",
    [{"fill": ss.Constant(0.1)}, {"fill": ss.Mean(batches(4))}, {"exclude": ["a", "b"]}],
    ids=["constant", "mean", "exclude"],
)
@pytest.mark.parametrize("fuse", [normalised, rooted])
def test_what_the_message_advises_takes_the_cause_away(fuse: Any, cure: dict[str, Any]) -> None:
    assert train(ss.adapt(Two(fuse), MODALITIES, **cure), batches()).steep == {}


def test_an_epsilon_takes_the_cause_away() -> None:
    def guarded(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([one / (one.square().sum(1, keepdim=True) + 1e-2).sqrt() for one in (a, b)], 1)

    assert train(ss.adapt(Two(guarded), MODALITIES), batches()).steep == {}


def losses(seed: int, **options: Any) -> list[float]:
    """Train a network with everything, then its adapters; give the adapted and the frozen loss on other rows."""
    network, data = Two(normalised), batches(24, 64)
    filled = ss.adapt(network, MODALITIES).filled(network)
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for inputs, target in data[:12] * 8:
        optimizer.zero_grad()
        F.cross_entropy(filled(inputs), target).backward()
        optimizer.step()
    fresh = Two(normalised)
    fresh.load_state_dict(network.state_dict())
    robust = ss.adapt(fresh, MODALITIES)
    train(robust, data[:12], epochs=8, safe=False, seed=seed, **options)
    robust.eval()
    found = []
    with torch.no_grad():
        for call in (robust, robust.pretrained):
            every = [
                F.cross_entropy(call({one: inputs[one]}), target) for inputs, target in data[12:] for one in inputs
            ]
            found.append(float(torch.stack(every).mean()))
    return found


@pytest.mark.filterwarnings("ignore:the first gradients explode")
def test_clipping_where_it_explodes_is_as_good_as_clipping_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without, two thirds of what adapting gains are lost."""
    (there, frozen), (everywhere, _) = losses(0), losses(0, clip=1.0)
    monkeypatch.setattr(gradients, "STEEP", float("inf"))
    before, _ = losses(0)
    assert frozen - there > 2 * (frozen - before)
    assert abs(there - everywhere) < 0.01


def test_only_the_rows_of_that_site_and_combination_are_shortened() -> None:
    banks = {f"{site}:ssf:scale": nn.Parameter(torch.zeros(2, 4)) for site in ("a", "b")}
    for bank in banks.values():
        bank.grad = torch.full((2, 4), 10.0)
    rows = {"left": frozenset({0}), "right": frozenset({1})}
    gradients.clip_steep(banks, rows, {"b": gradients.Steep({"left": 20.0}, 0.5)})
    assert float(banks["b:ssf:scale"].grad[0].norm()) == pytest.approx(0.5)
    assert bool((banks["b:ssf:scale"].grad[1] == 10).all())
    assert bool((banks["a:ssf:scale"].grad == 10).all())


@pytest.mark.filterwarnings("ignore:the first gradients explode")
def test_rows_that_combinations_share_are_clipped_too() -> None:
    spec = {"left": "8", "right": "8"}
    report = train(ss.adapt(Two(normalised), spec, sharing="additive"), batches())
    assert {site: list(found.norms) for site, found in report.steep.items()} == {"b": ["left"], "a": ["right"]}


def test_clip_that_was_asked_for_is_what_clips() -> None:
    with pytest.warns(UserWarning, match=r"clip=... was given, so they are clipped with all others"):
        report = train(ss.adapt(Two(normalised), MODALITIES), batches(), clip=2.0)
    assert report.clip == 2.0
    assert "clipped with all others to 2" in str(report)


def test_a_gradient_that_is_no_number_is_named_before_anything_moves() -> None:
    robust = ss.adapt(Two(rooted), MODALITIES)
    before = {name: one.detach().clone() for name, one in robust.adapter_parameters().items()}
    with pytest.raises(ss.NonFiniteLoss, match=r"step 1 .* infinite for rows with left, right, at a, b\. .*zero"):
        train(robust, batches())
    assert all(torch.equal(one, before[name]) for name, one in robust.adapter_parameters().items())


def test_one_that_comes_later_is_named_with_site_and_combination() -> None:
    robust, (good,) = ss.adapt(Two(rooted, bias=True), MODALITIES, method="scale"), batches()
    with torch.no_grad():
        robust.network.b.bias.zero_()
    bad = ({"left": good[0]["left"], "right": torch.zeros(32, 8)}, good[1])
    with pytest.raises(ss.NonFiniteLoss, match=r"step 2 .*rows with right, at b\. "):
        train(robust, [good, bad], combinations="right")


def test_nan_in_the_forward_names_combination_and_site() -> None:
    class Divides(Two):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            a, b = self.a(left), self.b(right)
            return self.head(torch.cat([a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)], 1))

    with pytest.raises(ss.NonFiniteLoss, match=r"rows with left, right\. .*\(first at head\).* zeros"):
        train(ss.adapt(Divides(plain), MODALITIES), batches())


@pytest.mark.filterwarnings("ignore:the first gradients explode")
def test_a_run_that_goes_on_clips_as_the_one_that_never_stopped(tmp_path: Path) -> None:
    data = batches(6)
    whole, stopped = ss.adapt(Two(normalised), MODALITIES), ss.adapt(Two(normalised), MODALITIES)
    expected = train(whole, data, epochs=2, safe=False)

    class Stop(Exception):
        pass

    calls = [0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 4:
            raise Stop
        return F.cross_entropy(output, target)

    options = {"epochs": 2, "safe": False, "folder": tmp_path, "save_every": 1, "progress": False}
    with pytest.raises(Stop):
        ss.train(stopped, data, loss=loss, **options)
    again = ss.adapt(Two(normalised), MODALITIES)
    found = ss.train(again, data, loss=loss, resume=True, **options)
    assert found.steep == expected.steep
    for name, one in whole.adapter_parameters().items():
        assert torch.equal(one, again.adapter_parameters()[name]), name


def test_the_look_marks_nothing_as_trained_and_needs_no_row_of_each() -> None:
    robust, (batch,) = ss.adapt(Two(plain), MODALITIES), batches()
    report = train(robust, [({"left": batch[0]["left"]}, batch[1])])
    assert [str(one) for one in robust.trained] == ["left"]
    assert report.steep == {}


def test_distillation_near_its_goal_is_not_taken_for_steep() -> None:
    network = Two(plain)
    with torch.no_grad():
        network.b.weight.mul_(1e-3)
    assert ss.train(ss.adapt(network, MODALITIES), batches(), loss="distill", epochs=1, progress=False).steep == {}


def test_nan_for_every_combination_does_not_name_them_all() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, **inputs: Tensor) -> Tensor:
            return self.head(sum(inputs.values(), torch.zeros(())))

    names = ["a", "b", "c"]
    batch = ({name: torch.randn(96, 4) for name in names}, torch.zeros(96).long())
    robust = ss.adapt(Three(), dict.fromkeys(names, "4"))
    with pytest.raises(ss.NonFiniteLoss, match=r"the loss is nan for rows with all 6 combinations\."):
        ss.train(robust, [batch], loss=lambda output, target: output.mean() * torch.nan, epochs=1, progress=False)
