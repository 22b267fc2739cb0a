"""Training for sensors that fade: what is drawn, what the network and the teacher see, what comes out."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from subsense import InputError, Modalities, ModalityError, TrainingError, draw_present, train
from subsense.degradation import Degradation, Degrader
from subsense.model.robust import RobustModel
from subsense.training import Distill
from subsense.training.sampling import Drawer
from training_examples import SPEC, adapters, equal, make_loader, make_robust, ordered_loader, whole_batch

MODALITIES = Modalities(SPEC)
QUIET: dict[str, Any] = {"progress": False, "safe": False, "epochs": 1, "loss": cross_entropy}


def seen(robust: RobustModel) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Note down what the model is called with."""
    calls: list[Any] = []
    robust.register_forward_pre_hook(lambda module, args: calls.append(args))
    return calls


def test_half_of_what_is_lacking_is_there_at_any_quality() -> None:
    complete = torch.ones(8000, 3, dtype=torch.bool)
    healthy = draw_present(MODALITIES, complete, seed=3)
    quality = draw_present(MODALITIES, complete, seed=3, degraded=0.5)
    assert torch.equal(quality == 1, healthy)
    faded = quality[~healthy]
    assert float((faded > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    between = faded[faded > 0].double()
    quarters = torch.histc(between, 4, 0, 1) / len(between)
    assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.02)


def test_nothing_fades_that_a_row_lacks_or_that_is_not_asked_for() -> None:
    has = torch.tensor([[True, True, False]]).expand(4000, -1)
    assert not bool(draw_present(MODALITIES, has, seed=0, degraded=1.0)[:, 2].any())
    quality = draw_present(MODALITIES, has, seed=0, degraded={"rgb": 1.0})
    assert set(quality[:, 1].unique().tolist()) == {0.0, 1.0}
    assert bool((quality[:, 0] > 0).all())
    with pytest.raises(TrainingError, match=r"degraded: expected a number in \[0, 1\] for 'rgb', but found 2"):
        draw_present(MODALITIES, has, seed=0, degraded={"rgb": 2})
    with pytest.raises(InputError, match="unknown modality 'audio'"):
        draw_present(MODALITIES, has, seed=0, degraded={"audio": 0.5})


def test_combinations_are_drawn_as_without_degradations() -> None:
    drawers = [Drawer(MODALITIES, MODALITIES.incomplete(), None, given) for given in (None, {"rgb": 0.5})]
    first, second = (one.draw(torch.ones(64, 3, dtype=torch.bool), seed=1).which for one in drawers)
    assert torch.equal(first, second)


@pytest.mark.parametrize("sharing", ["independent", "additive"])
def test_the_network_sees_rows_as_bad_as_their_quality(sharing: str) -> None:
    inputs, target = whole_batch()
    robust = make_robust(sharing=sharing)
    calls = seen(robust)
    train(robust, [(inputs, target)], degrade="noise", **QUIET)
    [(given, quality)] = calls
    assert quality.is_floating_point()
    for column, name in enumerate(SPEC):
        errors = (given[name] - inputs[name]).abs().mean(1)
        fades = (quality[:, column] > 0) & (quality[:, column] < 1)
        assert torch.equal(errors > 0, fades)
        assert bool(fades.any())
        assert float(errors[fades & (quality[:, column] < 0.4)].mean()) > float(
            errors[fades & (quality[:, column] > 0.6)].mean()
        )


def test_the_teacher_sees_healthy_rows() -> None:
    inputs, target = whole_batch()
    robust, goals = make_robust(), []
    loss = Distill()
    teacher = robust.pretrained

    def spy(given: Any, present: Any = None) -> Any:
        goals.append(given)
        return teacher(given, present)

    robust.pretrained = spy  # type: ignore[method-assign]
    train(robust, [(inputs, target)], degrade="noise", **{**QUIET, "loss": loss})
    assert all(torch.equal(goals[0][name], inputs[name]) for name in SPEC)


def test_a_seed_decides_everything_and_no_degradation_leaves_all_as_it_was() -> None:
    found = []
    for options in ({"degrade": "noise"}, {"degrade": "noise"}, {}, {"degrade": None}):
        robust = make_robust(sharing="additive")
        train(robust, make_loader(), **QUIET, **options)
        found.append(adapters(robust))
    assert equal(found[0], found[1])
    assert equal(found[2], found[3])
    assert not equal(found[0], found[2])


def test_training_over_severities_helps_at_qualities_in_between() -> None:
    inputs, target = whole_batch()
    losses = {}
    for degrade in (None, "bias"):
        robust = make_robust(sharing="additive")
        train(robust, ordered_loader(16), degrade=degrade, **{**QUIET, "epochs": 40})
        degrader = Degrader(MODALITIES, [(inputs, target)], kinds="bias")
        quality = torch.full((48, 3), 0.5)
        quality[:, 2] = 1
        with torch.no_grad():
            some = [float(cross_entropy(robust(degrader(inputs, quality, seed=seed), quality), target))
                    for seed in range(20)]  # fmt: skip
        losses[degrade] = sum(some) / 20
    assert losses["bias"] < 0.9 * losses[None]


def test_a_degradation_of_ones_own_is_trained_with() -> None:
    inputs, target = whole_batch()
    zero = Degradation("zero", "channels", "all of it", (1.0,) * 5, lambda values, amount, generator: 0 * values)
    degrader = Degrader(MODALITIES, [(inputs, target)], kinds={"rgb": zero})
    robust = make_robust()
    calls = seen(robust)
    train(robust, [(inputs, target)], degrade=degrader, **QUIET)
    [(given, quality)] = calls
    fades = (quality[:, 0] > 0) & (quality[:, 0] < 1)
    assert torch.allclose(given["rgb"][fades], inputs["rgb"].mean(0).expand(int(fades.sum()), -1), atol=1e-5)
    assert torch.equal(given["depth"], inputs["depth"])


def test_what_cannot_be_is_refused_before_anything_is_changed() -> None:
    robust = make_robust()
    before = adapters(robust)
    other = Degrader(Modalities({"a": "1", "b": "1"}), [{"a": torch.randn(4, 1), "b": torch.randn(4, 1)}])
    for degrade, options, error, message in (
        ("noise", {"strategy": "separate"}, TrainingError, "degrade: a quality between 0 and 1 mixes sets"),
        (other, {}, TrainingError, "degrade: expected a Degrader for .*rgb"),
        ("nois", {}, InputError, "Did you mean 'noise'"),
        ({"rgb": "blur"}, {}, ModalityError, "'blur' doesn't fit 'rgb', which is taken for 'vector'"),
    ):
        with pytest.raises(error, match=message):
            train(robust, make_loader(), degrade=degrade, **QUIET, **options)
    assert equal(adapters(robust), before)
