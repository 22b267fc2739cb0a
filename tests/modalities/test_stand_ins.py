"""What stands in is compared with what is there: decibels, normalised inputs, rows that preprocessing left constant."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import subsense as ss
from subsense.modalities.filling import Filling
from subsense.modalities.stand_ins import StandIn, compare_stand_ins

MODALITIES = ss.Modalities({"rgb": "3 4 4", "sound": "T 8"})


def batches(sound: Callable[[Tensor], Tensor], number: int = 3) -> list[tuple[dict[str, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    drawn = [[torch.randn(shape, generator=generator) for shape in ((4, 3, 4, 4), (4, 5, 8))] for _ in range(number)]
    return [({"rgb": rgb, "sound": sound(noise)}, torch.zeros(4)) for rgb, noise in drawn]


def found(data: Any, fill: Any = "zeros") -> StandIn:
    (one,) = (one for one in compare_stand_ins(Filling(MODALITIES, fill), data) if one.modality == "sound")
    return one


def decibels(noise: Tensor) -> Tensor:
    return -45 + 10 * noise


def test_zeros_are_louder_than_all_there_is_in_decibels() -> None:
    (fault,) = found(batches(decibels)).faults
    assert fault.startswith("sound: what stands in for 'sound' (zeros) is 0, but what is there lies between -")
    assert "fill={'sound': subsense.Constant(...)}" in fault


@pytest.mark.parametrize("fill", [ss.Constant(-70.0), ss.Mean(batches(decibels))], ids=["constant", "mean"])
def test_what_it_advises_helps(fill: Any) -> None:
    assert not found(batches(decibels), {"sound": fill}).faults


def test_numbers_are_numpys() -> None:
    data = batches(decibels)
    one, every = found(data), np.concatenate([inputs["sound"].numpy() for inputs, _ in data])
    assert one.mean == pytest.approx(every.mean(dtype=np.float64))
    assert one.spread == pytest.approx(every.std(dtype=np.float64))
    assert (one.least, one.most) == (every.min(), every.max())
    assert one.rows == 12


def test_normalised_inputs_and_zeros_are_right() -> None:
    assert not [
        one.faults for one in compare_stand_ins(Filling(MODALITIES), batches(lambda noise: noise)) if one.faults
    ]


@pytest.mark.parametrize("left", [127.5, 0.1, 0.0, -100.0])
def test_rows_that_preprocessing_left_constant_are_counted(left: float) -> None:
    def some(noise: Tensor) -> Tensor:
        noise = noise + 1
        noise[1] = left
        return noise

    (fault,) = [one for one in found(batches(some)).faults if "called present" in one]
    value = float(torch.tensor(left))
    assert fault.startswith(f"sound: 3 of 12 rows that are called present hold {value:.6g} in 'sound' and nothing else")


def test_rows_that_are_said_to_lack_it_do_not_count() -> None:
    data = [
        {**inputs, "sound": inputs["sound"].index_fill(0, torch.tensor([1]), 127.5),
         "present": torch.tensor([[True, row != 1] for row in range(4)])}
        for inputs, _ in batches(lambda noise: noise)
    ]  # fmt: skip
    assert not found(data).faults
    assert found(data).rows == 9


def test_a_modality_that_is_always_silent_is_told_once() -> None:
    (fault,) = found(batches(lambda noise: torch.full_like(noise, -1.5))).faults
    assert "12 of 12 rows" in fault


def test_masks_integers_and_what_is_left_out_are_passed_over() -> None:
    spec = {"rgb": "3", "text": {"ids": "4:int64", "x": "4 2", "attention_mask": "4"}}
    modalities = ss.Modalities(spec)
    text = {"ids": torch.ones(2, 4, dtype=torch.int64), "x": torch.randn(2, 4, 2), "attention_mask": torch.ones(2, 4)}
    data = [{"rgb": torch.randn(2, 3), "text": text}]
    assert [one.part for one in compare_stand_ins(Filling(modalities), data)] == ["rgb", "x"]
