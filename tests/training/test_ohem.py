"""Cross-entropy over hard pixels, against counting by hand in numpy."""

import numpy as np
import pytest
import torch

from subsense.errors import TrainingError
from subsense.support.factories import import_factory
from subsense.training.ohem import HardCrossEntropy


def by_hand(scores: torch.Tensor, target: torch.Tensor, threshold: float, ignored: int, least: float) -> float:
    """Follow the definition, pixel by pixel."""
    losses = []
    for row in range(len(target)):
        for place in np.ndindex(*target.shape[1:]):
            label = int(target[(row, *place)])
            if label != ignored:
                one = scores[(row, slice(None), *place)].double().numpy()
                losses.append(float(np.log(np.exp(one - one.max()).sum()) + one.max() - one[label]))
    losses.sort(reverse=True)
    hard = [loss for loss in losses if np.exp(-loss) < threshold]
    kept = hard if len(hard) >= max(1, int(len(losses) * least)) else losses[: max(1, int(len(losses) * least))]
    return float(np.mean(kept))


@pytest.mark.parametrize("sureness", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_averages_over_the_hard_pixels(sureness, threshold):
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(4, (2, 9, 8), generator=draw)
    right = torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2)
    scores = torch.randn(2, 4, 9, 8, generator=draw) + sureness * right
    target[0, :3] = 255
    found = HardCrossEntropy(threshold, ignore_index=255)(scores, target)
    assert found.item() == pytest.approx(by_hand(scores, target, threshold, 255, 1 / 16), rel=1e-5, abs=1e-6)


def test_with_threshold_one_it_is_cross_entropy():
    draw = torch.Generator().manual_seed(0)
    scores, target = torch.randn(2, 4, 5, 5, generator=draw), torch.randint(4, (2, 5, 5), generator=draw)
    torch.testing.assert_close(HardCrossEntropy(1.0)(scores, target), torch.nn.functional.cross_entropy(scores, target))


def test_gives_no_gradient_to_easy_pixels():
    scores = torch.tensor([[[9.0, 0.0, 9.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    HardCrossEntropy()(scores, torch.tensor([[0, 0, 0]])).backward()
    assert scores.grad is not None
    assert scores.grad[0, :, 1].abs().min() > 0.4
    assert not scores.grad[0, :, [0, 2]].any()


def test_is_zero_where_nothing_counts():
    scores = torch.randn(1, 3, 4, requires_grad=True)
    loss = HardCrossEntropy(ignore_index=255)(scores, torch.full((1, 4), 255))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.1}, {"least": -0.1}, {"least": 2.0}])
def test_refuses_numbers_out_of_range(options):
    with pytest.raises(TrainingError, match=f"{next(iter(options))}: expected a number"):
        HardCrossEntropy(**options)


def test_the_former_place_still_works_in_a_recipe() -> None:
    assert import_factory("subsense.training.hard_examples:HardCrossEntropy") is HardCrossEntropy
