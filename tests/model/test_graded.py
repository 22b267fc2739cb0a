"""`present` as a quality in [0, 1]: the model, batches whose rows differ, folds, graphs, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import subsense as ss
from networks import NETWORKS, SHARINGS, TOWERS, draw, make, with_sets

EACH_NETWORK = pytest.mark.parametrize("name", list(NETWORKS))
EACH_SHARING = pytest.mark.parametrize("sharing", SHARINGS)


def adapted(name: str, **options: Any) -> ss.RobustModel:
    network, arguments = make(name)
    return with_sets(ss.adapt(network, **arguments | options))


def inputs_of(robust: ss.RobustModel, rows: int = 4) -> dict[str, Tensor]:
    return draw({name: str(modality.parts[name]) for name, modality in robust.modalities.items()}, rows)


def some_quality(robust: ss.RobustModel) -> Tensor:
    """Give qualities for four rows: none alike, one of them healthy, one without its first modality."""
    count = len(robust.modalities)
    quality = torch.rand(4, count, generator=torch.Generator().manual_seed(3))
    quality[1], quality[2, 0], quality[2, 1:] = 1.0, 0.0, 1.0
    return quality


@EACH_SHARING
@EACH_NETWORK
def test_0_and_1_are_missing_and_present(name: str, sharing: str) -> None:
    robust = adapted(name, sharing=sharing)
    inputs = inputs_of(robust)
    present = some_quality(robust) > 0.5
    present[:, 0] |= ~present.any(1)
    with torch.no_grad():
        assert torch.equal(robust(inputs, present.float()), robust(inputs, present))


@EACH_SHARING
@EACH_NETWORK
@pytest.mark.parametrize("method", ["ssf", "scale", "bitfit", "norm", "lora", ["ssf", "lora"]], ids=str)
def test_rows_that_differ_are_what_they_are_alone(method: Any, name: str, sharing: str) -> None:
    robust = adapted(name, sharing=sharing, method=method)
    inputs, quality = inputs_of(robust), some_quality(robust)
    with torch.no_grad():
        together = robust(inputs, quality)
        for row in range(4):
            alone = robust({key: value[row : row + 1] for key, value in inputs.items()}, quality[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_shift_acts_by_what_is_lost() -> None:
    robust = adapted("towers", sharing="additive", method="shift", include=["head"])
    inputs, quality = inputs_of(robust), some_quality(robust)
    (bank,) = robust.adapter_parameters().values()
    with torch.no_grad():
        filled = inputs | {"left": inputs["left"] * (quality[:, :1] > 0)}
        expected = robust.pretrained(filled) + (1 - quality) @ bank
        torch.testing.assert_close(robust(inputs, quality), expected)


def test_what_has_quality_0_is_never_read() -> None:
    robust = adapted("towers")
    inputs = inputs_of(robust)
    quality = torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.3, 0.2], [1.0, 1.0]])
    with torch.no_grad():
        expected = robust(inputs, quality)
        inputs["left"][0] = inputs["right"][1] = float("nan")
        assert torch.equal(robust(inputs, quality), expected)


@pytest.mark.parametrize("drop_absent", [False, True])
@EACH_SHARING
@EACH_NETWORK
def test_a_quality_folds(name: str, sharing: str, drop_absent: bool) -> None:
    robust = adapted(name, sharing=sharing, method=["ssf", "lora"])
    names = list(robust.modalities)
    given = {key: value for key, value in inputs_of(robust).items() if key not in names[2:]}
    quality = {names[0]: 0.6, names[1]: 1.0}
    plain = ss.fold(robust, quality, example=given, drop_absent=drop_absent)
    args, kwargs = ss.prepare(robust, given, drop_absent=drop_absent)
    with torch.no_grad():
        expected = robust(given, robust.modalities.quality(quality).expand(4, -1))
        torch.testing.assert_close(plain(*args, **kwargs), expected, rtol=1e-4, atol=1e-4)
        other = robust(given)
    assert not torch.allclose(expected, other, atol=1e-3), "the quality made no difference"


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        ({"left": 1.5}, r"quality of 'left': expected a number in \[0, 1\], but found 1.5"),
        ({"lft": 0.5}, "unknown modality"),
        ({"left": 0.0}, "at least one"),
    ],
)
def test_a_fold_of_no_quality_is_refused(quality: dict[str, float], message: str) -> None:
    with pytest.raises(ss.ModalityError, match=message):
        ss.fold(adapted("towers"), quality)


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), float("inf")])
def test_what_is_no_quality_is_refused_with_its_rows(value: float) -> None:
    robust = adapted("towers")
    quality = torch.ones(4, 2)
    quality[2, 1] = value
    with pytest.raises(ss.InputError, match=r"expected a quality in \[0, 1\], but found .* in row 2"):
        robust(inputs_of(robust), quality)


def test_a_quality_for_what_was_not_passed_is_refused() -> None:
    robust = adapted("towers")
    with pytest.raises(ss.InputError, match="says that 'right' is there"):
        robust({"left": torch.zeros(1, 4)}, torch.tensor([[1.0, 0.5]]))


@EACH_SHARING
def test_a_graph_takes_qualities(sharing: str) -> None:
    robust = adapted("towers", sharing=sharing)
    inputs, quality = inputs_of(robust), some_quality(robust)
    robust.locate(inputs)
    torch._dynamo.reset()
    compiled = torch.compile(robust, backend="eager", fullgraph=True)
    program = torch.export.export(robust, (inputs, quality)).module()
    with torch.no_grad():
        for other in (quality, quality.flip(0), (quality > 0.5).float().clamp(min=torch.tensor([1.0, 0.0]))):
            expected = robust(inputs, other)
            torch.testing.assert_close(compiled(inputs, other), expected)
            torch.testing.assert_close(program(inputs, other), expected)


def test_a_batch_of_float64_keeps_its_precision() -> None:
    network, _ = make("towers")
    robust = with_sets(ss.adapt(network.double(), {"left": "4:float64", "right": "6:float64"}, sharing="additive"))
    inputs = {name: value.double() for name, value in draw(TOWERS).items()}
    quality = some_quality(robust).double()
    plain = ss.fold(robust, dict(zip(TOWERS, quality[0].tolist(), strict=True)))
    with torch.no_grad():
        found, expected = robust(inputs, quality)[:1], plain(*(one[:1] for one in inputs.values()))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)  # the quality of a fold is float32


# ------------------------------------------------------------------------------------------------------------- training


def test_gradients_reach_rows_by_what_is_lost() -> None:
    robust = adapted("towers", sharing="additive", method="shift", include=["head"]).train()
    robust(inputs_of(robust), torch.tensor([[0.25, 1.0]]).expand(4, 2)).sum().backward()
    (bank,) = robust.adapter_parameters().values()
    assert bank.grad is not None
    assert bank.grad.tolist() == [[3.0, 3.0, 3.0], [0.0, 0.0, 0.0]]  # 4 rows of 0.75


def test_training_marks_what_it_moved() -> None:
    network, arguments = make("towers")
    robust = ss.adapt(network, **arguments, sharing="additive").train()
    robust(inputs_of(robust), torch.tensor([[0.5, 1.0]]).expand(4, 2)).sum().backward()
    assert [str(one) for one in robust.trained] == ["right"]


def test_train_and_evaluate_hand_on_the_qualities_of_a_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    robust = adapted("towers", sharing="additive")
    quality = torch.tensor([[0.5, 1.0]]).expand(4, 2)
    loader = [(inputs_of(robust) | {"present": quality}, torch.tensor([0, 1, 2, 0]))]
    seen: list[Any] = []
    forward = robust.forward
    monkeypatch.setattr(
        robust, "forward", lambda inputs, present=None: seen.append(present) or forward(inputs, present)
    )
    ss.train(robust, loader, loss=cross_entropy, epochs=1, safe=False, progress=False)
    ss.evaluate(robust, loader, metric="accuracy")
    rows = {tuple(row) for present in seen for row in present.tolist()}
    assert rows == {(0.5, 0.0), (0.0, 1.0), (0.5, 1.0)}  # left or right, as drawn; in `evaluate` both, too


def test_calibration_leaves_degraded_rows_out() -> None:
    robust = adapted("towers")
    quality = torch.ones(64, 2)
    quality[:16, 0] = 0.5
    report = ss.calibrate(robust, [inputs_of(robust, 64) | {"present": quality}], progress=False)
    assert (report.rows + report.held_out, report.left_out) == (48, 16)


def test_a_fold_of_a_quality_is_exported(tmp_path: Path) -> None:
    robust = adapted("towers")
    example = inputs_of(robust)
    ss.fold(robust, {"left": 1.0, "right": 0.5}, export=tmp_path / "half.pt2", example=example)
    program = torch.export.load(tmp_path / "half.pt2").module()
    with torch.no_grad():
        expected = robust(example, torch.tensor([[1.0, 0.5]]).expand(4, 2))
        torch.testing.assert_close(program(**example), expected, rtol=1e-4, atol=1e-5)
