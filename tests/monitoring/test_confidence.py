"""Sets cover what they promise, temperatures and abstention do what they say, and all of it is kept."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

import subsense as ss
from networks import draw, make, with_sets
from subsense.evaluation.reliability import Reliable
from subsense.evaluation.reporting.text import markdown
from subsense.model.confidence import Confidence
from subsense.monitoring.confidence.limits import find_least, find_least_of_pixels, find_limit
from subsense.monitoring.confidence.temperature import fit_temperatures


def towers(seed: int = 0, **options: Any) -> ss.RobustModel:
    network, spec = make("towers", seed)
    return with_sets(ss.adapt(network, **spec, **options), seed)


def labelled(robust: ss.RobustModel, count: int, seed: int, *, heat: float = 2.0) -> tuple[dict[str, Tensor], Tensor]:
    """Draw rows whose class is drawn from what the network says with everything, made less sure."""
    inputs = draw(robust.modalities.spec, count, seed)
    with torch.no_grad():
        chances = (robust(inputs) / heat).softmax(1)
    generator = torch.Generator().manual_seed(seed + 1)
    return inputs, torch.multinomial(chances, 1, generator=generator)[:, 0]


# ---- limits


def one_position(losses: Tensor) -> tuple[Tensor, Tensor]:
    return losses[:, None], torch.ones(len(losses), 1, dtype=torch.bool)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [19, 20, 100, 333])
def test_a_limit_is_the_conformal_quantile(count: int, coverage: float) -> None:
    losses = torch.randn(count, generator=torch.Generator().manual_seed(count)).double()
    level = math.ceil((count + 1) * coverage - 1e-9) / count
    assert find_limit(*one_position(losses), coverage) == np.quantile(losses.numpy(), level, method="inverted_cdf")


def test_a_limit_among_ties_takes_them_all_in() -> None:
    losses = torch.tensor([0.0] * 50 + [1.0] * 50)
    assert find_limit(*one_position(losses), 0.4) == 0.0
    assert find_limit(*one_position(losses), 0.6) == 1.0


def test_nan_and_infinity_are_beyond_every_limit() -> None:
    losses = torch.arange(99.0)
    losses[:5], losses[5:9] = float("nan"), float("inf")
    assert find_limit(*one_position(losses), 0.9) == 98.0  # 9 of 99 lie beyond a 90 % limit, and so many are no numbers
    losses[9] = float("nan")
    assert find_limit(*one_position(losses), 0.9) == math.inf
    assert find_limit(*one_position(torch.arange(8.0)), 0.9) == math.inf


def test_a_limit_of_pixels_bounds_the_mean_share_beyond_it() -> None:
    generator = torch.Generator().manual_seed(0)
    losses, counted = torch.rand(30, 50, generator=generator), torch.rand(30, 50, generator=generator) < 0.7
    counted[3] = False
    rows = [losses[row][counted[row]] for row in range(30) if row != 3]
    limit = find_limit(losses, counted, 0.8)

    def beyond(value: float) -> float:
        return sum(float((row > value).double().mean()) for row in rows)

    allowed = 0.2 * (len(rows) + 1) - 1
    assert beyond(limit) <= allowed < beyond(limit - 1e-4)


def test_an_abstention_keeps_to_its_risk_as_often_as_it_says() -> None:
    broken = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        sure = torch.rand(400, generator=generator).double()
        wrong = torch.rand(400, generator=generator) > 0.7 + 0.3 * sure  # wrong by 0.3 (1 - sure)
        least = find_least(sure, wrong, risk=0.1, certainty=0.9)
        true_risk = 0.3 * (1 - (1 + min(least, 1.0)) / 2)
        broken += least <= 1 and true_risk > 0.1
    assert broken <= binom.ppf(0.999, 200, 0.1)


def test_an_abstention_answers_what_an_exact_bound_allows() -> None:
    sure = torch.linspace(0, 1, 500).double()
    wrong = torch.arange(500) < 100  # the least sure hundred are wrong
    least = find_least(sure, wrong, risk=0.05, certainty=0.9)
    answers = sure >= least
    errors, count = int((answers & wrong).sum()), int(answers.sum())
    assert 0.05 > binomtest(errors, count).proportion_ci(0.96, "exact").high > 0.03  # one side: 98 %
    assert find_least(sure, torch.ones(500).bool(), risk=0.05, certainty=0.9) == math.inf
    assert find_least(sure[:10], wrong[:10], risk=0.05, certainty=0.9) == math.inf


def test_an_abstention_of_pixels_is_what_was_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    sure = torch.rand(10, 40, generator=generator).double()
    wrong, counted = torch.rand(10, 40, generator=generator) > sure, torch.rand(10, 40, generator=generator) < 0.8
    least = find_least_of_pixels(sure, wrong, counted, 0.2)

    def risk(value: float) -> float:
        weights = counted.double() / counted.sum(1, keepdim=True)
        return float((weights * wrong)[sure >= value].sum() / weights[sure >= value].sum())

    below = sure[counted & (sure < least)]
    assert risk(least) <= 0.2
    assert all(risk(float(value)) > 0.2 for value in below)


# ---- temperature


def scored(count: int, heat: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(count, 4, generator=generator)
    return scores, torch.multinomial((scores / heat).softmax(1), 1, generator=generator)[:, 0]


def test_a_temperature_is_the_most_likely_one_and_unseen_ones_follow_what_is_missing() -> None:
    heats = {("a", "b", "c"): 1.0, ("a", "b"): 1.5, ("a", "c"): 2.0}
    samples = {key: scored(4000, heat, number) for number, (key, heat) in enumerate(heats.items())}
    found, shared = fit_temperatures(samples, ["a", "b", "c"])
    for key, (scores, target) in samples.items():

        def surprise(log: float, scores: Tensor = scores, target: Tensor = target) -> float:
            return float(nn.functional.cross_entropy(scores.double() / math.exp(log), target))

        assert math.log(found[key]) == pytest.approx(minimize_scalar(surprise, bounds=(-3, 3)).x, abs=2e-3)
    assert math.exp(shared[""] + shared["b"] + shared["c"]) == pytest.approx(1.5 * 2.0, rel=0.1)


def test_a_temperature_of_few_or_of_faultless_rows_stays_near_the_others() -> None:
    scores = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    found, _ = fit_temperatures({("a", "b"): scored(4000, 2.0, 0), ("a",): (scores, torch.tensor([0, 1]))}, ["a", "b"])
    assert 0.02 < found["a",] < 2
    ruled_out = torch.tensor([[1.0, float("-inf")], [float("nan"), 0.0]])
    found, _ = fit_temperatures({("a",): (ruled_out, torch.tensor([0, 1]))}, ["a", "b"])
    assert math.isfinite(found["a",])


# ---- the whole


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_sets_cover_new_rows_of_every_combination(coverage: float, tmp_path: Path) -> None:
    robust = towers()
    trusted = ss.confidence(robust, [labelled(robust, 2000, 0)], coverage=coverage)
    results = ss.evaluate(robust, [labelled(robust, 2000, 7)], metric="accuracy", progress=False)
    assert [trust.combination for trust in trusted.trusts] == ["left", "right", "left+right"]
    for row in results.rows:
        low, high = binom.interval(0.999, 2000, coverage)
        slack = 3.3 * math.sqrt(coverage * (1 - coverage) / 2000) * 2000  # the limit was drawn, too
        assert row.reliability is not None
        assert low - slack <= 2000 * row.reliability.coverage <= high + slack, row
        assert row.reliability.ece < 0.5 * row.reliability.ece_before or row.reliability.ece < 0.02
    assert "covered" in str(results)
    assert "ECE/T" in str(results)
    assert max(map(len, str(results).splitlines()[-8:])) <= 80
    assert "| ECE/T |" in markdown(results)
    assert ss.Results.load(results.save(tmp_path / "results.json")) == results


def test_rows_of_a_batch_are_read_each_by_its_combination() -> None:
    robust = towers()
    ss.confidence(robust, [labelled(robust, 300, 0)], risk=0.5)
    inputs = draw({"left": "4", "right": "6"}, 6, 3)
    present = torch.tensor([[1, 1], [1, 0], [0, 1]] * 2).bool()
    mixed = robust.train().predict(inputs, present)
    assert robust.training
    robust.eval()
    assert mixed.served == ("left+right", "left", "right") * 2
    assert mixed.guaranteed.all()
    for row, has in enumerate(present):
        alone = robust.predict({name: inputs[name][row : row + 1] for name in robust.modalities.from_present(has)})
        scores = robust({name: inputs[name][row : row + 1] for name in robust.modalities.from_present(has)})
        assert robust.confidence is not None
        trust = robust.confidence[alone.served[0]]
        assert alone.value.tolist() == [int(scores.argmax())] == [int(mixed.value[row])]
        assert torch.equal(alone.set[0], mixed.set[row])
        assert torch.equal(alone.set, -scores.detach().double().log_softmax(1) <= trust.limit)
        torch.testing.assert_close(alone.confidence, (scores / trust.temperature).softmax(1).amax(1).detach())
        assert bool(alone.abstain) == bool(scores.double().softmax(1).amax() < trust.least) == bool(mixed.abstain[row])


def test_what_was_not_calibrated_is_said_and_read_most_carefully() -> None:
    robust = towers(sharing="additive")
    trusted = ss.confidence(robust, [labelled(robust, 300, 0)], combinations=["left", "left+right"], risk=0.6)
    inputs = draw({"left": "4", "right": "6"}, 3)
    unseen = robust.predict({"right": inputs["right"]})
    assert not unseen.guaranteed.any()
    widest = max(trust.limit for trust in trusted.trusts)
    assert torch.equal(unseen.set, -robust({"right": inputs["right"]}).detach().double().log_softmax(1) <= widest)
    faded = robust.predict(inputs, torch.tensor([[1, 1], [1, 0.5], [1, 0]]))
    assert faded.guaranteed.tolist() == [True, False, True]
    with pytest.raises(ss.ModalityError, match=r"right was not calibrated; calibrated: left, left\+right"):
        trusted["right"]


def test_an_output_that_is_no_number_rules_nothing_out_and_abstains() -> None:
    trust = ss.Trust(combination="a", task="classes", num_rows=9, limit=0.5)
    read = trust.read(torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [float("-inf"), 1.0]]))
    assert read.value.tolist() == [-1, -1, 1]
    assert read.set.tolist() == [[True, True], [True, True], [False, True]]
    assert read.abstain.tolist() == [True, True, False]
    assert read.confidence is not None
    assert read.confidence.tolist() == [0, 0, 1]


def test_saturated_scores_are_still_told_apart() -> None:
    """Their float32 probabilities are 1 and tie; their log probabilities differ."""
    scores = torch.tensor([[18.0 + row / 2, 0.0] for row in range(20)])
    assert len(set(scores.softmax(1)[:, 0].tolist())) == 1
    losses = -scores.double().log_softmax(1)[:, :1]
    assert len(set(losses[:, 0].tolist())) > 10


class Pixels(nn.Module):
    """(batch, 1, H, W) twice -> (batch, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) + self.b(b)


def pictures(robust: ss.RobustModel, count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    inputs = draw({"a": "1 H W", "b": "1 H W"}, count, seed)
    with torch.no_grad():
        chances = robust(inputs).softmax(1).movedim(1, -1)
    target = torch.multinomial(chances.reshape(-1, 3), 1, generator=torch.Generator().manual_seed(seed)).view(
        count, 6, 6
    )
    target[:, 0] = 255
    return inputs, target


def test_pixels_have_sets_and_abstain_each_by_itself() -> None:
    torch.manual_seed(0)
    robust = with_sets(ss.adapt(Pixels(), {"a": "1 H W", "b": "1 H W"}))
    ss.confidence(robust, [pictures(robust, 60, 0)], risk=0.4, ignore_index=255, pixels=20)
    inputs, target = pictures(robust, 200, 1)
    said = robust.predict(inputs)
    assert said.set.shape == (200, 3, 6, 6)
    assert said.abstain.shape == said.value.shape == (200, 6, 6)
    [row] = ss.evaluate(robust, [(inputs, target)], metric=_miou(), combinations=["a+b"], progress=False).rows
    assert row.reliability is not None
    assert 0.89 < row.reliability.coverage < 0.97
    assert row.reliability.risk is not None
    assert row.reliability.risk < 0.45
    with pytest.raises(ss.InputError, match=r"class indices 0 to 2, but found 255; .*`ignore_index`"):
        ss.confidence(robust, [(inputs, target)])


def _miou() -> object:
    from subsense.evaluation import metrics

    return metrics.build("miou", ignore_index=255)


class Sum(nn.Module):
    """(batch, 4), (batch, 6) -> (batch, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 1), nn.Linear(6, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.a(left) + self.b(right)


def test_values_get_intervals() -> None:
    torch.manual_seed(0)
    robust = with_sets(ss.adapt(Sum(), {"left": "4", "right": "6"}))

    def batch(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs = draw({"left": "4", "right": "6"}, count, seed)
        noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
        return inputs, robust(inputs).detach() + noise

    trusted = ss.confidence(robust, [batch(1000, 0)])
    assert trusted["left+right"].limit == pytest.approx(1.645, abs=0.15)
    assert trusted["left"].limit > trusted["left+right"].limit
    said = robust.predict(batch(3, 1)[0])
    torch.testing.assert_close(said.set.mean(-1), said.value)
    assert said.confidence is None
    assert not said.abstain.any()
    results = ss.evaluate(robust, [batch(2000, 2)], metric="mae", progress=False)
    assert all(0.87 < row.reliability.coverage < 0.93 for row in results.rows if row.reliability)
    assert "90% interval" in str(trusted)
    with pytest.raises(ss.InputError, match="`risk` needs classes"):
        ss.confidence(robust, [batch(50, 0)], risk=0.1)


# ---- oracles


def test_calibration_error_and_brier_score_are_the_fields() -> None:
    scores, target = scored(500, 2.0, 0)
    trust = ss.Trust(combination="a", task="classes", num_rows=9, temperature=2.0, limit=1.0)
    reliable = Reliable(Confidence(task="classes", coverage=0.9, trusts=(trust,)), trust)
    for part in range(0, 500, 100):
        reliable.update(scores[part : part + 100], target[part : part + 100])
    found = reliable.compute()
    for ece, brier, heat in ((found.ece, found.brier, 2.0), (found.ece_before, found.brier_before, 1.0)):
        chances = (scores.double() / heat).softmax(1)
        expected = multiclass_calibration_error(chances, target, num_classes=4, n_bins=15, norm="l1")
        assert ece == pytest.approx(float(expected), abs=1e-6)
        assert brier == pytest.approx(float((chances - nn.functional.one_hot(target, 4)).square().sum(1).mean()))


def test_sets_are_mapies() -> None:
    mapie = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_, self.fitted_ = np.arange(4), True
            return self

        def predict_proba(self, x):
            return np.exp(x) / np.exp(x).sum(1, keepdims=True)

        def predict(self, x):
            return x.argmax(1)

    (scores, target), (new, _) = scored(200, 2.0, 0), scored(300, 2.0, 1)
    theirs = mapie.SplitConformalClassifier(Given().fit(None, None), 0.9, conformity_score="lac", prefit=True)
    theirs.conformalize(scores.double().numpy(), target.numpy())
    _, sets = theirs.predict_set(new.double().numpy())
    losses = -scores.double().log_softmax(1).gather(1, target[:, None])
    limit = find_limit(losses, torch.ones_like(losses, dtype=torch.bool), 0.9)
    own = ss.Trust(combination="a", task="classes", num_rows=200, limit=limit).read(new).set
    assert np.array_equal(own.numpy(), sets[:, :, 0])


def test_intervals_are_mapies() -> None:
    mapie = pytest.importorskip("mapie.regression")
    from sklearn.base import BaseEstimator, RegressorMixin

    class Given(RegressorMixin, BaseEstimator):
        def fit(self, x, y):
            self.fitted_ = True
            return self

        def predict(self, x):
            return x[:, 0]

    generator = np.random.default_rng(0)
    x, y, new = generator.normal(size=(150, 1)), generator.normal(size=150), generator.normal(size=(20, 1))
    theirs = mapie.SplitConformalRegressor(Given().fit(None, None), 0.9, prefit=True).conformalize(x, y)
    _, intervals = theirs.predict_interval(new)
    limit = find_limit(torch.tensor(abs(y - x[:, 0]))[:, None], torch.ones(150, 1, dtype=torch.bool), 0.9)
    own = ss.Trust(combination="a", task="values", num_rows=150, limit=limit).read(torch.tensor(new)).set
    np.testing.assert_allclose(own[:, 0].numpy(), intervals[:, :, 0])


# ---- kept, carried, refused


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    robust = towers()
    ss.save(robust, tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8"))["format"] == 1
    trusted = ss.confidence(robust, [labelled(robust, 30, 0)], risk=0.001)  # nothing is sure enough: infinity is kept
    assert all(trust.least == math.inf for trust in trusted.trusts)
    assert "never" in str(trusted)
    ss.save(robust, tmp_path)
    inputs = draw({"left": "4", "right": "6"}, 5)
    before = robust.predict(inputs)
    loaded = ss.load(tmp_path, robust.detach()).eval()
    assert loaded.confidence == trusted
    assert torch.equal(loaded.predict(inputs).set, before.set)


@pytest.mark.parametrize("damage", [{"coverage": 2}, {"trusts": [{"combination": "left+up", "task": "classes",
                                                                  "num_rows": 1, "limit": 1}]}])  # fmt: skip
def test_a_damaged_one_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    from subsense.model.manifest import seal

    robust = towers()
    ss.confidence(robust, [labelled(robust, 30, 0)])
    ss.save(robust, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    manifest.pop("checksum")
    (tmp_path / "manifest.json").write_bytes(seal(manifest | {"confidence": manifest["confidence"] | damage}))
    with pytest.raises(ss.DamagedFile, match="no confidence as"):
        ss.load(tmp_path, robust.detach())


def test_other_sets_need_another_calibration() -> None:
    robust = towers()
    batch = labelled(robust, 30, 0)

    def calibrated() -> ss.RobustModel:
        ss.confidence(robust, [batch])
        return robust

    ss.train(calibrated(), [batch], loss=nn.functional.cross_entropy, epochs=1, progress=False)
    assert robust.confidence is None
    ss.calibrate(calibrated(), [batch], progress=False)
    assert robust.confidence is None
    calibrated().load_adapter_state_dict(robust.adapter_state_dict())
    with pytest.raises(ss.InputError, match=r"first call subsense.confidence\(robust, loader\)"):
        robust.predict(batch[0])


def test_a_fold_is_read_by_the_numbers_of_its_combination(tmp_path: Path) -> None:
    robust = towers()
    ss.confidence(robust, [labelled(robust, 100, 0)], risk=0.5)
    inputs = {"left": draw({"left": "4", "right": "6"}, 8)["left"]}
    file = tmp_path / "left.pt2"
    plain = ss.fold(robust, "left", export=file, example=inputs, drop_absent=True)
    assert robust.confidence is not None
    said, expected = robust.confidence["left"].read(plain(**inputs)), robust.predict(inputs)
    assert torch.equal(said.set, expected.set)
    assert torch.equal(said.abstain, expected.abstain)
    notes = {"subsense.trust": ""}
    torch.export.load(file, extra_files=notes)
    assert ss.Trust.model_validate_json(notes["subsense.trust"]) == robust.confidence["left"]


@pytest.mark.slow
def test_onnx_carries_the_numbers(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    robust = towers()
    ss.confidence(robust, [labelled(robust, 100, 0)])
    ss.fold(robust, "left", onnx=tmp_path / "left.onnx", example=draw({"left": "4", "right": "6"}, 2))
    notes = {one.key: one.value for one in onnx.load(str(tmp_path / "left.onnx")).metadata_props}
    assert robust.confidence is not None
    assert ss.Trust.model_validate_json(notes["subsense.trust"]) == robust.confidence["left"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverage": 1.0}, "expected coverage between 0 and 1, but found 1.0"),
        ({"risk": 0}, "expected risk between 0 and 1"),
        ({"coverage": 0.98}, "coverage 0.98 needs at least 49 rows of each combination, but left has 30"),
        ({"select": lambda output: output[:, 0]}, r"found scores \(30,\) and a target \(30,\)"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(options: dict[str, Any], message: str) -> None:
    robust = towers()
    with pytest.raises(ss.InputError, match=message):
        ss.confidence(robust, [labelled(robust, 30, 0)], **options)
    assert robust.confidence is None


def test_rows_that_lack_something_count_where_they_can() -> None:
    robust = towers()
    inputs, target = labelled(robust, 60, 0)
    present = torch.ones(60, 2, dtype=torch.bool)
    present[:20, 1] = False
    trusted = ss.confidence(robust, [(inputs | {"present": present}, target)])
    assert [trust.num_rows for trust in trusted.trusts] == [60, 40, 40]
    present[:, 1] = False
    with pytest.raises(ss.InputError, match=r"no row has all of right, left\+right; leave them out"):
        ss.confidence(robust, [(inputs | {"present": present}, target)])
    with pytest.raises(ss.InputError, match="at least one batch"):
        ss.confidence(robust, [])
