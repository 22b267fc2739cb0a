"""One row that acts wherever anything is missing: what it computes, and that every part of the library knows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import subsense as ss
from networks import CAMERAS, TOWERS, draw, make, only, with_sets
from subsense.adapters import from_json, to_json, words_of
from subsense.adapters.common import Common
from subsense.integrations.peft import to_peft
from subsense.testing import check_adapter

WITH_LORA = ["ssf", Common(ss.LoRA(2))]
QUIET: dict[str, Any] = {"progress": False}


@dataclass(frozen=True)
class Unsolved:
    """A method of one's own that can be trained alone."""

    name: ClassVar[str] = "unsolved"
    serves, parameters, pair, start = ss.Shift.serves, ss.Shift.parameters, ss.Shift.pair, ss.Shift.start
    apply, merge, fold = ss.Shift.apply, ss.Shift.merge, ss.Shift.fold


def towers(method: Any, **options: Any) -> ss.RobustModel:
    network, arguments = make("towers")
    return ss.adapt(network, method=method, sharing="additive", **arguments, **options)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "ConvTranspose2d", "MultiheadAttention", "LayerNorm"])
@pytest.mark.parametrize("method", [WITH_LORA, [Common(ss.SSF()), "shift"]], ids=str)
def test_it_keeps_the_contract(kind: str, method: Any) -> None:
    check_adapter(method, kind, compiled=kind == "Linear")


@pytest.mark.parametrize("method", [Common(ss.SSF()), Common(ss.LoRA(2)), ["norm", Common(ss.SSF())]], ids=str)
def test_with_three_modalities_it_acts_once_however_many_are_missing(method: Any) -> None:
    network, arguments = make("cameras")
    robust = with_sets(ss.adapt(network, method=method, sharing="additive", **arguments))
    inputs = draw(CAMERAS, rows=3)
    present = torch.stack([robust.modalities.present(one) for one in ("rgb", "rgb+depth", "depth")])
    with torch.no_grad():
        mixed = robust(inputs, present)
    for row, has in enumerate(present):
        some = {name: inputs[name][row : row + 1] for name in robust.modalities.from_present(has)}
        torch.testing.assert_close(robust(some).detach(), mixed[row : row + 1])  # with a graph
        with torch.no_grad():
            torch.testing.assert_close(robust(some), mixed[row : row + 1])
            folded = robust.filled(ss.fold(robust, robust.modalities.from_present(has)))
            torch.testing.assert_close(folded(some), mixed[row : row + 1])


def test_patterns_say_where_it_acts() -> None:
    plan = towers(["ssf", Common(ss.LoRA(2), ["left", "he*"])]).plan
    assert [site.key for site in plan.sites if site.num_common] == ["left", "head"]


def test_all_incomplete_combinations_add_the_same_product_to_the_weight_and_the_complete_one_none() -> None:
    robust = with_sets(towers(Common(ss.LoRA(2)), include=["left"]))
    banks = robust.adapter_parameters()
    down, up = banks["left:common:down"].detach()[0], banks["left:common:up"].detach()[0]
    inputs, linear = draw(TOWERS), robust.network.left
    present = robust.modalities.present
    mixed = torch.stack([present(one) for one in ("left", "right", "left+right")] * len(inputs["left"]))[
        : len(inputs["left"])
    ]
    with torch.no_grad():
        own, added = linear(inputs["left"]), inputs["left"] @ (up.T @ down).T
        features = robust.features(only(inputs, ["left"]))["left"][0]
        assert torch.equal(robust(inputs), robust.pretrained(inputs))
        rows = robust(inputs, mixed)
        for row, has in enumerate(mixed):
            some = {name: inputs[name][row : row + 1] for name in robust.modalities.from_present(has)}
            torch.testing.assert_close(rows[row : row + 1], robust(some))
    torch.testing.assert_close(features, own + added)
    assert added.abs().max() > 0.01


def test_training_one_combination_moves_it_and_its_modalitys_row_alone() -> None:
    robust = with_sets(towers(WITH_LORA))
    before = {name: bank.detach().clone() for name, bank in robust.adapter_parameters().items()}
    inputs = draw(TOWERS, rows=8)
    batch = inputs, torch.randn(8, 3)
    ss.train(robust, [batch], loss=mse_loss, combinations=["left"], epochs=2, weight_decay=0.1, safe=False, **QUIET)
    for name, bank in robust.adapter_parameters().items():
        moved = (bank != before[name]).flatten(1).any(1).tolist()
        assert moved == ([True] if ":common:" in name else [False, True])


def test_a_run_that_diverges_gives_it_back() -> None:
    robust, inputs = towers(WITH_LORA), draw(TOWERS, rows=24)
    with torch.no_grad():
        goal, frozen = robust(inputs), robust.pretrained(only(inputs, ["left"]))
    report = ss.train(robust, [(inputs, goal)], loss=mse_loss, epochs=4, lr=30.0, schedule="constant", **QUIET)
    assert {one.kept for one in report.losses.values()} == {"identity"}
    assert torch.equal(robust.eval()(only(inputs, ["left"])), frozen)


def test_the_plan_counts_it_once() -> None:
    robust = towers(WITH_LORA)
    total = sum(parameter.numel() for parameter in robust.adapter_parameters().values())
    plan = robust.plan
    assert total == plan.num_parameters == 2 * plan.parameters_per_row + plan.common_parameters
    assert plan.common_parameters == 2 * (4 + 8) + 2 * (6 + 8) + 2 * (8 + 3)
    assert f"one row for all incomplete combinations: {plan.common_parameters} parameters" in str(plan)
    assert f"{total} parameters in all" in str(plan)


def test_calibrated_it_is_the_least_squares_over_all_combinations_at_once() -> None:
    """Full rank at one layer, held against `numpy.linalg.lstsq` on the rows of all combinations together."""
    network, _ = make("towers")
    spec = {name: f"{axes}:float64" for name, axes in TOWERS.items()}
    method = Common(ss.LoRA(3))
    robust = ss.adapt(network.double(), spec, sharing="additive", method=method, include=["head"])
    inputs = {name: one.double() for name, one in draw(TOWERS, rows=40).items()}
    ss.calibrate(robust, [inputs], held_out=0.0, ridge=0.0, positions=None, **QUIET)
    given, bias = [only(inputs, [one]) for one in TOWERS], network.head.bias.detach().numpy()
    goal = np.concatenate([robust.features(inputs)["head"][0].numpy()] * 2)
    own = np.concatenate([robust.features(one, adapted=False)["head"][0].numpy() for one in given])
    found = np.concatenate([robust.features(one)["head"][0].numpy() for one in given])
    theta = np.linalg.lstsq(own - bias, goal - own, rcond=None)[0]
    np.testing.assert_allclose(found, own + (own - bias) @ theta, atol=1e-8)


def test_calibrating_it_says_its_rank_and_refuses_a_method_that_is_not_solved() -> None:
    robust, inputs = towers(["ssf", Common(ss.LoRA(3))]), draw(TOWERS, rows=20)
    assert ss.calibrate(robust, [inputs], held_out=0.0, **QUIET).rank == 3
    other = towers(["ssf", Common(Unsolved())])
    with pytest.raises(ss.CalibrationError, match=r"method 'unsolved'.*it lacks"):
        ss.calibrate(other, [inputs], held_out=0.0, **QUIET)


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    methods = (ss.SSF(), Common(ss.LoRA(2, alpha=3.0), ["left", "head*"]))
    assert from_json(to_json(methods)) == methods
    assert words_of(methods[1]) == "common lora (rank 2, alpha 3.0)"
    robust, inputs = with_sets(towers(methods)), only(draw(TOWERS), ["right"])
    expected = robust(inputs)
    ss.save(robust, tmp_path)
    loaded = ss.load(tmp_path, robust.detach())
    assert loaded.plan.adapters == methods
    assert torch.equal(loaded(inputs), expected)


def test_peft_gets_it_where_it_is_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    robust = with_sets(towers(Common(ss.LoRA(2)), include=["left", "right", "head"]))
    inputs = only(draw(TOWERS), ["left"])
    expected = robust(inputs).detach()
    args, kwargs = ss.prepare(robust, inputs)
    to_peft(robust, "left", tmp_path)
    other = peft.PeftModel.from_pretrained(robust.detach(), tmp_path).eval()
    torch.testing.assert_close(other(*args, **kwargs).detach(), expected)


def test_peft_is_refused_it_beside_another_method(tmp_path: Path) -> None:
    robust = with_sets(towers(["lora", Common(ss.LoRA(2))]))
    with pytest.raises(ss.PlanError, match="has common, which peft's LoRA can't hold"):
        to_peft(robust, "left", tmp_path)


@pytest.mark.parametrize(("make_method", "error", "words"), [
    (lambda: Common("lora"), ss.PlanError, r"expected a method's object such as LoRA\(rank=8\), but found 'lora'"),
    (lambda: Common(ss.LoRA), ss.PlanError, "expected a method's object"),
    (lambda: Common(Common(ss.LoRA(2))), ss.PlanError, "expected a method's object"),
    (lambda: Common(ss.LoRA(2), "left"), ss.PlanError, r"write \['left'\]"),
    (lambda: Common(ss.LoRA(2), ["lefd"]), ss.UnmatchedPattern, "matches no site of lora. Did you mean 'left'"),
    (lambda: Common(ss.LoRA(2), ["norm"]), ss.UnmatchedPattern, "'norm' matches no site of lora"),
])  # fmt: skip
def test_what_cannot_be_is_refused(make_method: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        towers(["ssf", make_method()])


def test_with_sets_of_their_own_it_is_refused_and_the_advice_is_right() -> None:
    network, arguments = make("towers")
    with pytest.raises(ss.PlanError, match="use sharing='additive'"):
        ss.adapt(network, method=WITH_LORA, **arguments)
    assert isinstance(ss.adapt(network, method=WITH_LORA, sharing="additive", **arguments), nn.Module)
