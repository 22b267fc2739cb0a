"""All forms of calling a network: each arrives as the network wants it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsense import Modalities, ModalityError, adapt
from subsense.modalities.calling import parse_call, spread_arguments

IMAGES = {"rgb": "3 H W", "depth": "1 H W"}
RGB, DEPTH = torch.full((2, 3, 4, 5), 1.0), torch.full((2, 1, 4, 5), 2.0)
IDS, MASK = torch.full((2, 6), 3), torch.full((2, 6), 4)


class Recorder(nn.Module):
    """Keep the arguments it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return args, kwargs


def arrange(call: Any, spec: dict[str, Any], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return adapt(Recorder(), spec, call=call).eval()(inputs)


def images(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return arrange(call, IMAGES, {"depth": DEPTH, "rgb": RGB})


def test_kwargs_are_named_as_the_modalities() -> None:
    assert images("kwargs") == ((), {"rgb": RGB, "depth": DEPTH})


def test_positional_in_declared_order() -> None:
    (first, second), kwargs = images("positional")
    assert first is RGB
    assert second is DEPTH
    assert not kwargs


def test_list_and_dict() -> None:
    assert images("list") == (([RGB, DEPTH],), {})
    assert images("dict") == (({"rgb": RGB, "depth": DEPTH},), {})


def test_channels_are_stacked_in_declared_order() -> None:
    (stacked,), kwargs = images("channels")
    assert torch.equal(stacked, torch.cat([RGB, DEPTH], 1))
    assert not kwargs


@pytest.mark.parametrize("rgb", ["pixels", ["pixels"]])
def test_other_argument_names(rgb: Any) -> None:
    assert images({"rgb": rgb}) == ((), {"pixels": RGB, "depth": DEPTH})


CALL = {"rgb": ["pixel_values"], "text": ["input_ids", "attention_mask"]}


def test_one_axis_string_for_several_arguments() -> None:
    text = {"input_ids": IDS, "attention_mask": MASK}
    found = arrange(CALL, {"rgb": "3 H W", "text": "L:int64"}, {"rgb": RGB, "text": text})
    assert found == ((), {"pixel_values": RGB, **text})


def test_parts_have_names_of_their_own() -> None:
    spec = {"rgb": "3 H W", "text": {"ids": "L:int64", "known": "L:int64"}}
    inputs = {"rgb": RGB, "text": {"known": MASK, "ids": IDS}}
    assert arrange("kwargs", spec, inputs) == ((), {"rgb": RGB, "ids": IDS, "known": MASK})
    assert arrange(CALL, spec, inputs) == ((), {"pixel_values": RGB, "input_ids": IDS, "attention_mask": MASK})
    assert arrange("dict", spec, inputs) == (({"rgb": RGB, "text": {"ids": IDS, "known": MASK}},), {})
    assert arrange("list", spec, inputs) == (([RGB, IDS, MASK],), {})


def test_a_callable_gets_network_and_inputs_and_gives_the_output() -> None:
    def call(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        assert isinstance(network, Recorder)
        return inputs["rgb"].sum() - inputs["depth"].sum()

    assert images(call) == RGB.sum() - DEPTH.sum()


def test_the_networks_own_output_comes_back_as_it_is() -> None:
    output = object()
    assert images(lambda network, inputs: output) is output


@pytest.mark.parametrize("call", ["kwargs", "list", {"rgb": ["x"], "depth": ["y"]}])
def test_the_form_as_data_is_read_again(call: Any) -> None:
    modalities = Modalities(IMAGES)
    assert parse_call(call, modalities).spec == call
    assert parse_call(parse_call(call, modalities).spec, modalities) == parse_call(call, modalities)


def test_spread_leaves_the_others_alone() -> None:
    assert spread_arguments(IMAGES, {"rgb": "pixels", "depth": ["depth"]}) == IMAGES
    assert spread_arguments(IMAGES, "kwargs") == IMAGES


@pytest.mark.parametrize(
    ("call", "spec", "message"),
    [
        ("kwarg", IMAGES, "expected one of kwargs, .* but found 'kwarg'. Did you mean 'kwargs'?"),
        ({"rbg": ["x"]}, IMAGES, "call: unknown modality 'rbg'. Did you mean 'rgb'?"),
        ({"rgb": ["x"], "depth": ["x"]}, IMAGES, "argument 'x' is named twice"),
        ({"rgb": ["depth"]}, IMAGES, "argument 'depth' is named twice"),
        ("kwargs", {"a": {"x": "1", "y": "1"}, "b": {"x": "1"}}, "argument 'x' is named twice"),
        ({"a": ["x"]}, {"a": {"x": "1", "y": "1"}, "b": "1"}, r"'a' is carried by \['x', 'y'\], but 1 argument names"),
        ("channels", {"a": "3 H W", "b": "1 H V"}, "found '3 H W' and '1 H V'"),
        ("channels", {"a": "3", "b": "1:float64"}, "found '3' and '1:float64'"),
        ("channels", {"a": "", "b": ""}, "stacks all modalities along their first axis"),
    ],
)
def test_refuses_a_call(call: Any, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ModalityError, match=message):
        parse_call(call, Modalities(spec))
