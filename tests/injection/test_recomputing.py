"""Activation checkpointing in the user's network: the same gradients as without, whatever the rows lack."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import subsense as ss

# torch's own, where nothing asks for a gradient
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
AXES = {"left": "5 6", "right": "5 6"}
WAYS = ["none", "not reentrant", "reentrant", "sequential", "within"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        x = x + self.attention(normal, normal, normal, need_weights=False)[0]
        return x + self.down(torch.tanh(self.up(x)))


class Deep(nn.Module):
    def __init__(self, way: str = "none") -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(6, 6), nn.Sequential(*(Block() for _ in range(3)))
        self.head, self.way = nn.Linear(6, 2), way

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = self.first(left + 2 * right)
        return self.head(self.run(x))

    def nested(self, x: Tensor) -> Tensor:
        return checkpoint(self.blocks[2], self.blocks[:2](x), use_reentrant=False)

    def run(self, x: Tensor) -> Tensor:
        if self.way == "none":
            return self.blocks(x)
        if self.way == "sequential":
            return checkpoint_sequential(self.blocks, 2, x, use_reentrant=False)
        if self.way == "within":
            return checkpoint(
                lambda y: checkpoint(self.blocks[2], self.blocks[:2](y), use_reentrant=False), x, use_reentrant=False
            )
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.way == "reentrant")
        return x


def adapted(way: str, method: Any = "ssf", **options: Any) -> ss.RobustModel:
    torch.manual_seed(0)
    robust = ss.adapt(Deep(way).double(), {name: f"{axes}:float64" for name, axes in AXES.items()}, method=method,
                      sharing="additive", **options)  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank += 0.3 * torch.randn(bank.shape, generator=generator, dtype=bank.dtype)
    robust.mark_trained("all")
    return robust.train()


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(4, 5, 6, generator=generator, dtype=torch.float64) for name in AXES}


MIXED = torch.tensor([[True, False], [False, True], [True, True], [True, False]])


def gradients(robust: ss.RobustModel, present: Tensor | None, steps: int = 3) -> list[Tensor]:
    x = inputs() if present is not None else {"left": inputs()["left"]}
    for _ in range(steps):  # what is known of outputs changes with the first step
        robust.zero_grad()
        robust(x, present).square().sum().backward()
    return [bank.grad.clone() for bank in robust.banks.parameters()]


@pytest.mark.parametrize("present", [None, MIXED], ids=["alike", "mixed"])
@pytest.mark.parametrize("method", ["ssf", ["ssf", "lora"], "norm"], ids=str)
@pytest.mark.parametrize("way", WAYS[1:])
def test_gradients_are_those_without(way: str, method: Any, present: Tensor | None) -> None:
    if (way, method) == ("reentrant", "norm"):
        return  # refused, below
    for one, other in zip(
        gradients(adapted(way, method), present), gradients(adapted("none", method), present), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_a_checkpoint_that_takes_the_gradients_is_refused() -> None:
    robust = adapted("reentrant", "norm")  # nothing before the first block asks for a gradient
    for present in (None, MIXED):
        with pytest.raises(ss.UnsupportedLayer, match="its adapters would get none; use use_reentrant=False"):
            gradients(robust, present)
    with torch.no_grad():
        robust(inputs(), MIXED)


@pytest.mark.parametrize("way", WAYS[1:3])
def test_two_forwards_before_the_backward_keep_their_own_routes(way: str) -> None:
    found = []
    for one in (way, "none"):
        robust = adapted(one)
        first, second = robust({"left": inputs()["left"]}), robust({"right": inputs()["right"]})
        third = robust(inputs(), MIXED)
        (first.square().sum() + 2 * second.square().sum() + third.sum()).backward()
        found.append([bank.grad for bank in robust.banks.parameters()])
    for one_grad, other in zip(*found, strict=True):
        torch.testing.assert_close(one_grad, other, atol=1e-12, rtol=1e-9)


def test_a_route_goes_with_its_graph() -> None:
    robust = adapted("not reentrant")
    output = robust(inputs(), MIXED)
    assert len(robust.injection.passes._known) == 1
    output.sum().backward()
    del output
    gc.collect()
    assert len(robust.injection.passes._known) == 0
    copy.deepcopy(robust)


def loss(y: Tensor, target: Tensor) -> Tensor:
    return ((y.mean((1, 2)) - target) ** 2).mean()


def test_training_is_that_without() -> None:
    rows = [inputs() for _ in range(3)]
    found = []
    for way in ("not reentrant", "none"):
        robust = adapted(way)
        ss.train(robust, [(x, x["left"].mean((1, 2))) for x in rows], loss=loss, epochs=2, seed=0, progress=False)
        found.append(robust.adapter_state_dict())
    for name, one in found[0].items():
        torch.testing.assert_close(one, found[1][name], atol=1e-12, rtol=1e-9)
