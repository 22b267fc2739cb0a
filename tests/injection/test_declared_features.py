"""A norm without weights that was declared for other channels than it sees is named where it first matters."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from networks import draw, with_sets

SIZES = {"left": "1 6 6", "right": "1 6 6"}
NORMS = {
    "instance": lambda: nn.InstanceNorm2d(8),
    "batch": lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False),
    "group": lambda: nn.GroupNorm(2, 8, affine=False),
}


class Misdeclared(nn.Module):
    """Give 16 channels to a norm that was made for 8."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 16, 3), norm, nn.Linear(16, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(torch.cat([left, right], 1))).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:input's size at dim")  # torch's own word on it
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(
    ("norm", "mixed"),  # the statistics of a batch mix its rows, so that norm never runs mixed
    [(norm, mixed) for norm in NORMS for mixed in (True, False) if (norm, mixed) != ("batch", True)],
)
def test_the_site_is_named_and_the_advice_helps(norm: str, training: bool, mixed: bool) -> None:
    batch = draw(SIZES)
    present = torch.tensor([[True, False], [False, True], [True, True], [True, False]]) if mixed else None
    given = batch if mixed else {"left": batch["left"]}
    robust = with_sets(ss.adapt(Misdeclared(NORMS[norm]()), SIZES))
    says = (
        r"norm \(.*\): declared with 8 features, but it gives 16; say so .*'norm'\).num_.* = 16, .*exclude=\['norm'\]"
    )
    with torch.set_grad_enabled(training), pytest.raises(ss.UnsupportedLayer, match=says):
        robust.train(training)(given, present)
    robust.detach()
    with_sets(ss.adapt(robust.network, SIZES, exclude=["norm"])).train(training)(given, present)


@pytest.mark.filterwarnings("ignore:input's size at dim")
@pytest.mark.parametrize("norm", NORMS)
def test_saying_so_changes_nothing_else_and_serves_the_norm(norm: str, tmp_path: Path) -> None:
    network, batch = Misdeclared(NORMS[norm]()).eval(), draw(SIZES)
    before, state = network(**batch), {name: one.clone() for name, one in network.state_dict().items()}
    with pytest.raises(ss.UnsupportedLayer) as told:
        with_sets(ss.adapt(network, SIZES))({"left": batch["left"]})
    fresh = Misdeclared(NORMS[norm]()).eval()
    fresh.load_state_dict(state)
    advice = re.search(r"network\.get_submodule\('norm'\)\.(\w+) = 16", str(told.value))
    setattr(fresh.get_submodule("norm"), advice.group(1), 16)
    assert torch.equal(fresh(**batch), before)
    robust = with_sets(ss.adapt(fresh, SIZES))
    assert {site.key: site.layer.features for site in robust.plan.sites}["norm"] == (16,)
    expected = robust({"left": batch["left"]})
    ss.fold(robust, "left", example={"left": batch["left"]})  # it checks the numbers
    ss.save(robust, tmp_path)
    again = ss.load(tmp_path, robust.detach())
    assert torch.equal(again({"left": batch["left"]}), expected)
