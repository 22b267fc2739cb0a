"""`adapt` warns of what no adapter could reach, where it is much, and names what declares it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from subsense import zoo
from subsense.zoo.mult import PackedAttention


class Bare(nn.Module):
    """Multiply by a parameter of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ns,hs->nh", x, self.table)


class Net(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.bare, self.last = nn.Linear(4, size), Bare(size), nn.Linear(4, 2)
        self.words = nn.Embedding(1000, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.last(self.bare(self.first(a + b + self.words.weight[0])))


AXES = {"a": "4", "b": "4"}


def test_much_that_no_layer_holds_is_warned_of_with_the_class() -> None:
    with pytest.warns(UserWarning, match=r"40.00% of the parameters of Net, .*: Bare 40 \(bare.table\), which no decl"):
        ss.adapt(Net(10), AXES)


class Wide(Net):
    """One whose bare parameter is less than a tenth."""

    def __init__(self) -> None:
        super().__init__(1)
        self.last, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(super().forward(a, b))


@pytest.mark.parametrize(("method", "exclude"), [("ssf", ["last"]), ("norm", [])])
def test_what_was_left_out_on_purpose_is_not_warned_of(method: str, exclude: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ss.adapt(Wide(), AXES, method=method, exclude=exclude)


def test_a_tenth_and_embeddings_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robust = ss.adapt(Wide(), AXES)
    assert robust.plan.uncovered == {"bare.table": 4}
    assert set(robust.plan.out_of_reach) == {"bare.table", "words.weight"}


def test_the_published_mult_says_what_declares_its_attention_and_is_right() -> None:
    axes = {"text": "5 300", "audio": "6 5", "vision": "7 20"}
    with pytest.warns(UserWarning, match=r"2\d.\d\d% .*layers=\[AttentionClass\(PackedAttention\)\] declares"):
        ss.adapt(zoo.build("mult", text=300, audio=5, vision=20), axes)
    declared = [ss.AttentionClass(PackedAttention)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robust = ss.adapt(zoo.build("mult", text=300, audio=5, vision=20), axes, layers=declared)
    assert robust.plan.out_of_reach == {}
