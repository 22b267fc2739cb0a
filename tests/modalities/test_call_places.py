"""A forward that can't be called in the asked way is refused by `adapt`, as far as its signature tells."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss

AXES = {"left": "4", "right": "4"}
INPUTS = {"left": torch.ones(2, 4), "right": torch.ones(2, 4)}


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)


class Keywords(Body):
    def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(left + right)


class One(Body):
    def forward(self, left: Tensor) -> Tensor:
        return self.layer(left)


class Three(Body):
    def forward(self, left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
        return self.layer(left + right) * scale


class Listed(Body):
    def forward(self, both: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        return self.layer(both[0] + both[1])


class Named(Body):
    def forward(self, both: Mapping[str, Tensor]) -> Tensor:
        return self.layer(both["left"] + both["right"])


class Loose(Body):
    def forward(self, *both: Any, **options: Any) -> Tensor:
        flat = both if len(both) == 2 else list(both[0].values()) if isinstance(both[0], dict) else both[0]
        return self.layer(flat[0] + flat[1])


@pytest.mark.parametrize(
    ("network", "call", "message"),
    [
        (Keywords, "list", r"call='list' hands over a list, but Keywords\.forward\(.*too many positional arguments"),
        (Keywords, "dict", "hands over a dict, but Keywords"),
        (Keywords, "positional", "hands over 2 tensors by place, but Keywords"),
        (One, "positional", r"One\.forward\(.*too many positional.*choose another: 'kwargs', 'list'"),
        (Three, "positional", "missing a required argument: 'scale'"),
        (Three, "channels", "hands over one tensor, but Three"),
        (Listed, "dict", r"hands over a dict, but Listed\.forward\(.* takes something else"),
        (Listed, "channels", "hands over one tensor, but Listed"),
        (Named, "list", "hands over a list, but Named"),
    ],
)
def test_what_the_signature_does_not_take_is_refused(network: type[Body], call: str, message: str) -> None:
    with pytest.raises(ss.ModalityError, match=message):
        ss.adapt(network(), AXES, call=call)


@pytest.mark.parametrize(
    ("network", "call"),
    [(Listed, "list"), (Named, "dict"), (Loose, "list"), (Loose, "dict"), (Loose, "positional")],
)
def test_what_it_takes_runs(network: type[Body], call: str) -> None:
    robust = ss.adapt(network(), AXES, call=call)
    assert robust(INPUTS).shape == (2, 3)


def test_a_hook_may_arrange_the_arguments_anew() -> None:
    network = One()
    network.register_forward_pre_hook(lambda module, args: (sum(args),))
    assert ss.adapt(network, AXES, call="positional")(INPUTS).shape == (2, 3)


@pytest.mark.parametrize("modalities", [["left", "right"], ["ab", "cd"], "left", 3, [("left", "4"), "right"]])
def test_names_without_axes_are_refused_in_words(modalities: Any) -> None:
    with pytest.raises(ss.ModalityError, match="expected name -> axis string without the batch, such as"):
        ss.adapt(Keywords(), modalities)


def test_combinations_are_drawn_for_what_was_passed_to_adapt_or_for_names() -> None:
    has = torch.ones(16, 2, dtype=torch.bool)
    expected = ss.draw_present(ss.Modalities(AXES), has, seed=3)
    for modalities in (AXES, list(AXES), {"left": {"x": "4", "mask": "4:bool"}, "right": "4"}):
        assert torch.equal(ss.draw_present(modalities, has, seed=3), expected)


def test_a_degrader_takes_what_was_passed_to_adapt() -> None:
    from subsense.degradation import Degrader

    axes = {"left": "C 4", "right": "C 4"}
    inputs = {name: torch.randn(32, 2, 4) for name in axes}
    given = [Degrader(modalities, [inputs], kinds="all") for modalities in (axes, ss.Modalities(axes))]
    quality = torch.full((32, 2), 0.5)
    one, other = (degrader(inputs, quality, seed=0) for degrader in given)
    assert all(torch.equal(one[name], other[name]) for name in axes)
