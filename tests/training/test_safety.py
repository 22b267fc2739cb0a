"""Training leaves no combination worse off than it began, and says so."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import subsense as ss
from networks import TOWERS, draw, make, only
from subsense.training.safety import rows_to_measure

QUIET = {"progress": False}


def made(sharing: str = "independent", method: Any = "ssf") -> tuple[ss.RobustModel, dict[str, Tensor]]:
    network, options = make("towers")
    return ss.adapt(network, **options, method=method, sharing=sharing), draw(TOWERS, rows=24)


def loss_of(robust: ss.RobustModel, inputs: dict[str, Tensor], combination: Any, goal: Tensor) -> float:
    with torch.no_grad():
        return float(mse_loss(robust.eval()(only(inputs, combination)), goal))


@pytest.mark.parametrize("sharing", ["independent", "additive"])
@pytest.mark.parametrize("method", ["ssf", ["ssf", "lora"]], ids=str)
def test_a_run_that_diverges_gives_the_frozen_network_back(sharing: str, method: Any) -> None:
    robust, inputs = made(sharing, method)
    with torch.no_grad():
        goal = robust(inputs)
        frozen = {one: robust.pretrained(only(inputs, one)) for one in robust.combinations}
    report = ss.train(robust, [(inputs, goal)], loss=mse_loss, epochs=4, lr=30.0, schedule="constant", **QUIET)
    for one in robust.combinations:
        losses = report.losses[str(one)]
        assert losses.is_worse
        assert losses.kept == "identity"
        assert losses.frozen == pytest.approx(float(mse_loss(frozen[one], goal)), rel=1e-5)
        assert torch.equal(robust.eval()(only(inputs, one)), frozen[one])
    assert "above the" in str(report)
    assert "was put to the identity" in str(report)


@pytest.mark.parametrize("sharing", ["independent", "additive"])
def test_a_run_that_diverges_from_calibrated_sets_gives_those_back(sharing: str) -> None:
    robust, inputs = made(sharing)
    with torch.no_grad():
        goal = robust(inputs)
    ss.calibrate(robust, [inputs], held_out=0.0, **QUIET)
    before = {one: loss_of(robust, inputs, one, goal) for one in robust.combinations}
    report = ss.train(robust, [(inputs, goal)], loss=mse_loss, epochs=4, lr=30.0, schedule="constant", **QUIET)
    assert {one.kept for one in report.losses.values()} == {"start"}
    for one, loss in before.items():
        assert loss_of(robust, inputs, one, goal) == pytest.approx(loss, rel=1e-5)


def test_training_may_start_calibrated() -> None:
    robust, inputs = made()
    with torch.no_grad():
        goal = robust(inputs)
    other, _ = made()
    ss.calibrate(other, [inputs], held_out=0.0, **QUIET)
    report = ss.train(robust, [(inputs, goal)], loss=mse_loss, start="calibrated", epochs=1, lr=1e-9, **QUIET)
    for one in robust.combinations:
        assert report.losses[str(one)].start == pytest.approx(loss_of(other, inputs, one, goal), rel=1e-4)
    with pytest.raises(ss.TrainingError, match="start: expected None or 'calibrated'"):
        ss.train(robust, [(inputs, goal)], loss=mse_loss, start="solved", **QUIET)  # type: ignore[arg-type]


def test_a_run_that_goes_on_is_not_calibrated_again(tmp_path: Any) -> None:
    sets = []
    for stops in (False, True):
        robust, inputs = made()
        with torch.no_grad():
            goal = robust(inputs)
        folder = tmp_path / str(stops)
        options = {"loss": mse_loss, "start": "calibrated", "lr": 1e-3, "epochs": 4, "folder": folder, **QUIET}
        if stops:
            with pytest.raises(KeyboardInterrupt):
                ss.train(robust, [(inputs, goal)], **{**options, "loss": Stopping(2)})
            robust, _ = made()
        ss.train(robust, [(inputs, goal)], resume=stops, **options)
        sets.append(robust.adapter_parameters())
    for name, one in sets[0].items():
        torch.testing.assert_close(one, sets[1][name])


class Stopping:
    """A mean squared error that is stopped after some steps; it has the name of the real one."""

    __qualname__ = "mse_loss"

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, output: Tensor, goal: Tensor) -> Tensor:
        self.steps -= 1
        if self.steps < 0:
            raise KeyboardInterrupt
        return mse_loss(output, goal)


def test_a_good_run_is_kept_and_reported() -> None:
    robust, inputs = made()
    target = torch.arange(24) % 3
    report = ss.train(robust, [(inputs, target)], loss=cross_entropy, epochs=20, lr=1e-2, **QUIET)
    for one in report.losses.values():
        assert one.kept == "trained"
        assert one.reached < one.frozen
        assert one.start is None
        assert one.floor is None
    assert "loss of the frozen network" in str(report)
    assert "above" not in str(report)
    assert not ss.train(robust, [(inputs, target)], loss=cross_entropy, epochs=1, safe=False, **QUIET).losses


def test_distillation_has_a_floor() -> None:
    robust, inputs = made()
    report = ss.train(robust, [inputs], loss="distill", epochs=2, **QUIET)
    floors = {one.floor for one in report.losses.values()}
    assert len(floors) == 1
    assert floors.pop() < min(one.reached for one in report.losses.values())


def test_measuring_changes_no_generator_and_no_mode() -> None:
    robust, inputs = made()
    target = torch.arange(24) % 3
    states = []
    for safe in (True, False):
        torch.manual_seed(3)
        ss.train(robust, [(inputs, target)], loss=cross_entropy, epochs=1, safe=safe, **QUIET)
        states.append((torch.get_rng_state(), robust.training))
    assert torch.equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


def test_few_rows_are_measured() -> None:
    assert rows_to_measure(10, 2) == 32
    assert rows_to_measure(10**6, 2) == 256


def test_rows_that_no_combination_fits_are_left_out() -> None:
    robust, inputs = made()
    batches = [({"left": inputs["left"]}, torch.zeros(24, dtype=torch.long)), (inputs, torch.arange(24) % 3)]
    report = ss.train(robust, batches, loss=cross_entropy, epochs=1, **QUIET)
    assert set(report.losses) == {"left", "right"}


class Segmenter(nn.Module):
    """(batch, 1, H, W) twice -> (batch, 3, H, W): background, and two kinds of spots that need both to tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in "ab"
        )
        self.fuse = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.left(left), self.right(right)], 1))


def scenes(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draw scenes of which nine tenths are background; spots of one kind are seen better by one camera."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(count, 16, 16, dtype=torch.long)
    for row in range(count):
        for kind in (1, 2):
            y, x = torch.randint(0, 13, (2,), generator=generator).tolist()
            target[row, y : y + 3, x : x + 4] = kind
    noise = torch.randn(2, count, 1, 16, 16, generator=generator)
    one, two = ((target == kind).float()[:, None] for kind in (1, 2))
    return {"left": noise[0] * 0.5 + 2 * one + two, "right": noise[1] * 0.5 + one + 2 * two}, target


def test_distillation_of_dense_predictions_helps_every_combination_and_class() -> None:
    """Nine tenths background, a small network with BatchNorm, the default call."""
    spec = {"left": "1 H W", "right": "1 H W"}
    inputs, target = scenes(48, 0)
    torch.manual_seed(0)
    network = Segmenter()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network(**inputs), target).backward()
        optimizer.step()
    robust = ss.adapt(network, spec, sharing="additive")
    batches = [{name: one[at : at + 8] for name, one in inputs.items()} for at in range(0, 48, 8)]
    report = ss.train(robust, batches, loss="distill", epochs=8, **QUIET)
    test, _ = scenes(16, 1)
    with torch.no_grad():
        goal = robust.eval()(test).argmax(1)
        for one in robust.combinations:
            losses, given = report.losses[str(one)], only(test, one)
            assert losses.reached < losses.frozen
            for kind in range(3):
                assert overlap(robust(given), goal, kind) > overlap(robust.pretrained(given), goal, kind) - 0.01


def overlap(scores: Tensor, goal: Tensor, kind: int) -> float:
    """Give the intersection over union of a class."""
    found, wanted = scores.argmax(1) == kind, goal == kind
    return float((found & wanted).sum() / (found | wanted).sum().clamp(min=1))
