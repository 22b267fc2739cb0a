"""In one's own loop: states that keep what is trained, complete batches, inputs in the caller's form."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import TOWERS, Towers, draw, only, with_sets
from subsense import CheckpointError, InputError, UntrainedCombination, adapt

TEXT = {"text": {"ids": "5 4", "weights": "5"}, "image": "4"}


@pytest.mark.parametrize("sharing", ["independent", "additive"])
def test_a_state_dict_keeps_what_is_trained(sharing: str) -> None:
    robust = with_sets(adapt(Towers(), TOWERS, sharing=sharing, fill="learned"))
    inputs = only(draw(TOWERS), ["left"])
    fresh = adapt(Towers(), TOWERS, sharing=sharing, fill="learned").eval()
    with pytest.raises(UntrainedCombination):
        fresh(inputs)
    fresh.load_state_dict(robust.state_dict())
    assert fresh.trained == robust.trained
    assert torch.equal(fresh(inputs), robust(inputs))
    assert copy.deepcopy(fresh).trained == robust.trained


def test_a_state_dict_without_it_leaves_what_is_known() -> None:
    robust = with_sets(adapt(Towers(), TOWERS))
    state = robust.state_dict()
    del state["_extra_state"]
    robust.load_state_dict(state)
    assert robust.trained == robust.combinations


def test_adapters_alone_have_a_state_dict() -> None:
    robust = with_sets(adapt(Towers(), TOWERS, fill={"left": "learned"}))
    state = robust.adapter_state_dict()
    assert not any(name.startswith("network.") for name in state)
    assert all(isinstance(value, Tensor) for value in state.values())
    network = Towers()
    network.load_state_dict(robust.network.state_dict())
    fresh = adapt(network, TOWERS, fill={"left": "learned"}).eval()
    fresh.load_adapter_state_dict(state)
    inputs = only(draw(TOWERS), ["right"])
    assert torch.equal(fresh(inputs), robust(inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"foreign": torch.zeros(1)}, "'foreign' belongs to no adapter"),
        (lambda state: dict(list(state.items())[1:]), "is missing"),
        (lambda state: {name: one[..., :1] for name, one in state.items()}, "expected shape"),
        (lambda state: state | {"_extra_state": torch.zeros(9)}, "which of 2 bank rows are trained"),
    ],
)
def test_another_state_is_refused_and_nothing_changes(change: Any, message: str) -> None:
    robust = with_sets(adapt(Towers(), TOWERS))
    before = {name: one.clone() for name, one in robust.adapter_state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        robust.load_adapter_state_dict(change(robust.adapter_state_dict()))
    assert all(torch.equal(one, robust.adapter_state_dict()[name]) for name, one in before.items())


@pytest.mark.parametrize("fill", ["zeros", "learned"])
def test_a_complete_batch_gives_zero_gradients(fill: str) -> None:
    robust = adapt(Towers(), TOWERS, fill=fill).train()
    inputs = draw(TOWERS)
    output = robust(inputs)
    assert torch.equal(output, robust.pretrained(inputs))
    output.square().sum().backward()
    gradients = [one.grad for one in robust.adapter_parameters().values()]
    assert all(one is not None and not one.any() for one in gradients)
    assert all(one.grad is None for one in robust.network.parameters())


def test_rows_served_by_no_set_give_zero_gradients() -> None:
    robust = adapt(Towers(), TOWERS, combinations=["left"], untrained="pretrained").train()
    robust(only(draw(TOWERS), ["right"])).sum().backward()
    assert all(one.grad is not None and not one.grad.any() for one in robust.adapter_parameters().values())


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.image = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, ids: Tensor, weights: Tensor, image: Tensor) -> Tensor:
        return (self.words(ids) * weights[..., None]).sum(1) + self.image(image)


def test_inputs_as_keywords() -> None:
    robust = with_sets(adapt(Towers(), TOWERS))
    inputs = draw(TOWERS)
    present = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    assert torch.equal(robust(**inputs), robust(inputs))
    assert torch.equal(robust(**inputs, present=present), robust(inputs, present))
    assert torch.equal(robust(left=inputs["left"]), robust({"left": inputs["left"]}))
    with pytest.raises(InputError, match="found both: right beside the mapping"):
        robust({"left": inputs["left"]}, right=inputs["right"])
    with pytest.raises(InputError, match=r"unknown modality 'rigth'.*mean 'right'"):
        robust(rigth=inputs["right"])
    with pytest.raises(InputError, match="all modalities are missing"):
        robust()


def test_arguments_as_keywords() -> None:
    robust = with_sets(adapt(Named(), TEXT))
    text = {"ids": torch.randn(2, 5, 4), "weights": torch.ones(2, 5)}
    image = torch.randn(2, 4)
    assert torch.equal(robust(**text, image=image), robust({"text": text, "image": image}))
    assert torch.equal(robust(image=image, ids=None, weights=None), robust({"image": image}))


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_stacked_tensor() -> None:
    robust = with_sets(adapt(Stacked(), {"rgb": "3 H W", "depth": "1 H W"}, call="channels"))
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(robust(x), robust.network(x))
    present = torch.tensor([[True, False], [True, False]])
    assert torch.equal(robust(x, present), robust({"rgb": x[:, :3]}))
    with pytest.raises(InputError, match=r"one tensor \(batch, 3 \+ 1, ...\), but found .* \(2, 5, 5, 5\)"):
        robust(torch.randn(2, 5, 5, 5))
    with pytest.raises(InputError, match="expected a mapping of modality to tensor, but found a tensor"):
        with_sets(adapt(Towers(), TOWERS))(torch.randn(2, 4))
