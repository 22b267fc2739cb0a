"""NaN and infinity: the caller's where a modality is present, never seen where it is missing."""

import pytest
import torch
from torch import Tensor

import subsense as ss
from networks import TOWERS, draw, make, with_sets

BAD = [float("nan"), float("inf"), float("-inf")]


def robust_towers(**options: bool) -> ss.RobustModel:
    return with_sets(ss.adapt(make("towers")[0], TOWERS, **options))


def batch_with(value: float, name: str, row: int) -> dict[str, Tensor]:
    inputs = draw(TOWERS)
    inputs[name][row] = value
    return inputs


@pytest.mark.parametrize("value", BAD)
def test_what_is_present_passes_through(value: float) -> None:
    robust, inputs = robust_towers(check_inputs=False), batch_with(value, "left", row=1)
    expected = make("towers")[0](**inputs)
    assert not expected[1].isfinite().any()
    torch.testing.assert_close(robust(inputs), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", BAD)
def test_what_is_missing_is_never_seen(value: float) -> None:
    robust, clean, dirty = robust_towers(), draw(TOWERS), batch_with(value, "left", row=1)
    present = torch.tensor([[True, True], [False, True], [True, False], [True, True]])
    outputs = robust(dirty, present=present)
    assert outputs.equal(robust(clean, present=present))
    outputs.sum().backward()
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all() for parameter in robust.adapter_parameters().values()
    )


@pytest.mark.parametrize("value", BAD)
def test_checked_inputs_name_modality_and_rows(value: float) -> None:
    robust, inputs = robust_towers(), batch_with(value, "right", row=2)
    message = r"input 'right': expected finite numbers, but found NaN or infinity in row 2; say in `present`"
    with pytest.raises(ss.InputError, match=message):
        robust(inputs)
    with pytest.raises(ss.InputError, match=message):
        robust.pretrained(inputs)
    robust.check_inputs = False
    assert not robust(inputs)[2].isfinite().any()
