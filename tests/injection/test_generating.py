"""`generate` called past the model raises; through the model, folded or without adapters it answers as it should."""

import copy
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from subsense import PlanError, RobustModel


class Decoder(nn.Module):
    """Continue numbers: each step goes through the layer again."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.step(x))

    def generate(self, x: Tensor, steps: int = 3) -> Tensor:
        """Give (batch, steps, 4)."""
        found = []
        for _ in range(steps):
            x = self(x)
            found.append(x)
        return torch.stack(found, 1)


class Speaker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.decoder = nn.Linear(4, 4), nn.Linear(6, 4), Decoder()

    def forward(self, left: Tensor, right: Tensor) -> Any:
        return self.decoder(self.left(left) + self.right(right))

    def generate(self, left: Tensor, right: Tensor) -> Any:
        return self.decoder.generate(self.left(left) + self.right(right))


INPUTS = {"left": torch.randn(3, 4), "right": torch.randn(3, 6)}
ABSENT = {"left": INPUTS["left"], "right": torch.zeros(3, 6)}


def speaking(network: nn.Module | None = None, **options: Any) -> RobustModel:
    robust = ss.adapt(network or Speaker(), {"left": "4", "right": "6"}, **options)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.normal_(std=0.3)
    robust.mark_trained(robust.combinations)
    return robust.eval()


def by_generating(network: Any, inputs: Any) -> Any:
    return network.generate(**inputs)


def test_past_the_model_it_is_refused() -> None:
    robust = speaking()
    network: Any = robust.network
    other: Any = copy.deepcopy(robust).network
    with pytest.raises(PlanError, match=r"^Speaker.generate was called on the adapted network"):
        network.generate(**ABSENT)
    with pytest.raises(PlanError, match=r"^decoder \(Decoder\).generate was called on the adapted network"):
        network.decoder.generate(INPUTS["left"])
    with pytest.raises(PlanError, match="was called on the adapted network"):
        other.generate(**ABSENT)


def test_the_advice_is_right() -> None:
    network: Any = Speaker()
    frozen = network.generate(**ABSENT)
    robust = speaking(network, call=by_generating)
    answer = robust({"left": INPUTS["left"]})
    folded: Any = ss.fold(robust, ["left"])
    torch.testing.assert_close(folded.generate(**ABSENT), answer)
    assert not torch.allclose(answer, frozen)
    with robust.no_adapters():
        assert torch.equal(network.generate(**ABSENT), frozen)
    assert torch.equal(robust.pretrained({"left": INPUTS["left"]}), frozen)


def test_a_copy_generates_with_its_own_adapters() -> None:
    robust = speaking(call=by_generating)
    before, other = robust({"left": INPUTS["left"]}), copy.deepcopy(robust)
    with torch.no_grad():
        for parameter in robust.adapter_parameters().values():
            parameter.zero_()
    assert torch.equal(other({"left": INPUTS["left"]}), before)


class Wrapper(nn.Module):
    """Pass every name that it lacks on to the network inside, as peft's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Speaker()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, left: Tensor, right: Tensor) -> Any:
        return self.inner(left, right)


def test_a_wrapper_that_passes_generate_on() -> None:
    network: Any = Wrapper()
    expected = network.generate(**INPUTS)
    robust = speaking(network, call=by_generating)
    with pytest.raises(PlanError, match=r"^inner \(Speaker\).generate was called"):
        network.generate(**INPUTS)
    assert torch.equal(robust(INPUTS), expected)


def test_detach_leaves_no_trace_and_a_method_of_the_users_own_stays() -> None:
    network: Any = Speaker()
    network.generate = types.MethodType(lambda self, left, right: self(left, right), network)
    own, expected = vars(network)["generate"], network.generate(**INPUTS)
    robust = speaking(network, call=by_generating)
    with pytest.raises(PlanError, match="was called on the adapted network"):
        network.generate(**INPUTS)
    assert torch.equal(robust(INPUTS), expected)
    robust.detach()
    assert vars(network)["generate"] is own
    assert "generate" not in vars(network.decoder)


def test_somebody_elses_put_on_meanwhile_calls_the_networks_own() -> None:
    robust = speaking(call=by_generating)
    network: Any = robust.network
    inner, calls = network.generate, list[int]()

    def counted(**inputs: Tensor) -> Any:
        calls.append(1)
        return inner(**inputs)

    network.generate = counted
    with robust.no_adapters():
        expected = network.generate(**INPUTS)
    with pytest.raises(PlanError, match="was called on the adapted network"):
        network.generate(**INPUTS)
    assert torch.equal(robust(INPUTS), expected)
    robust.detach()
    assert torch.equal(network.generate(**INPUTS), expected)
    assert len(calls) == 4
