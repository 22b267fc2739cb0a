"""Features at every site, and how near they are to those with everything present."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

import subsense as ss
from subsense.errors import InputError
from subsense.evaluation.similarity import feature_similarity


class Fusion(nn.Module):
    """Two encoders, a sequence-first layer, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(2, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, left, right):
        steps = torch.stack([self.left(left), self.right(right)])  # (step, batch, feature)
        return self.head(torch.relu(self.mix(steps)).mean(0))


@pytest.fixture
def robust() -> ss.RobustModel:
    torch.manual_seed(0)
    robust = ss.adapt(Fusion(), {"left": "3", "right": "2"})
    with torch.no_grad():
        for bank in robust.adapter_parameters().values():
            bank.normal_(0, 0.3)
    robust.mark_trained(["left", "right"])
    return robust.eval()


def inputs(count: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(count, size, generator=generator) for name, size in (("left", 3), ("right", 2))}


def outputs_of(network: nn.Module, *arguments: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
    """Give what the layers of a plain network give, by hooks of our own."""
    found = {}
    for name in ("left", "right", "mix", "head"):
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda module, args, output, name=name: found.__setitem__(name, output))
    with torch.no_grad():
        network(*arguments, **named)
    return found


def test_adapted_features_are_those_of_the_folded_network(robust: ss.RobustModel) -> None:
    x = inputs()
    expected = outputs_of(ss.fold(robust, "left"), x["left"], torch.zeros(5, 2))
    found = robust.features({"left": x["left"]})
    assert list(found) == ["left", "right", "mix", "head"]
    for site, tensors in found.items():
        torch.testing.assert_close(tensors[0], expected[site])


@pytest.mark.parametrize("adapted", [True, False])
def test_features_with_everything_present_are_the_networks_own(robust: ss.RobustModel, adapted: bool) -> None:
    found = robust.features(inputs(), adapted=adapted)
    expected = outputs_of(copy.deepcopy(robust).detach(), **inputs())
    assert all(torch.equal(found[site][0], expected[site]) for site in expected)


def test_features_leave_no_trace(robust: ss.RobustModel) -> None:
    x = inputs()
    with torch.no_grad():
        before = robust({"left": x["left"]})
        robust.features({"left": x["left"]})
        robust.features({"left": x["left"]}, adapted=False)
        assert torch.equal(robust({"left": x["left"]}), before)


def test_features_of_a_mixed_batch_are_refused(robust: ss.RobustModel) -> None:
    present = torch.tensor([[True, False], [True, True], [True, True], [True, True], [True, True]])
    with pytest.raises(InputError, match="one combination at a time"):
        robust.features({**inputs(), "present": present})


def test_similarity_is_the_mean_over_rows_by_hand(robust: ss.RobustModel) -> None:
    x = inputs()
    batches = [({name: tensor[:3] for name, tensor in x.items()}, None), ({n: t[3:] for n, t in x.items()}, None)]
    found = feature_similarity(robust, batches)
    assert (found.sites, found.count, found.left_out) == (("left", "right", "mix", "head"), 5, ())
    whole = outputs_of(copy.deepcopy(robust).detach(), **x)
    frozen = outputs_of(copy.deepcopy(robust).detach(), x["left"], torch.zeros(5, 2))
    folded = outputs_of(ss.fold(robust, "left"), x["left"], torch.zeros(5, 2))
    for way, features in (("pretrained", frozen), ("adapted", folded)):
        for site, value in zip(found.sites, found.values["left", way], strict=True):
            by_row = [tensor.movedim(1, 0).flatten(1) if site == "mix" else tensor for tensor in
                      (features[site], whole[site])]  # fmt: skip
            assert value == pytest.approx(float(cosine_similarity(*by_row).mean()), abs=1e-6), (way, site)


def test_rows_that_lack_something_are_left_out(robust: ss.RobustModel) -> None:
    present = torch.tensor([[True, True], [True, False], [True, True], [False, True], [True, True]])
    assert feature_similarity(robust, [({**inputs(), "present": present}, None)]).count == 3
    with pytest.raises(InputError, match="at least one row that has every modality"):
        feature_similarity(robust, [({"left": inputs()["left"]}, None)])
