"""What a batch holds: inputs and target, which rows have what, and some of its rows."""

from collections import namedtuple

import pytest
import torch

import subsense as ss
from subsense.modalities.loaders import available, num_rows, split, split_labelled, take

MODALITIES = ss.Modalities({"rgb": "3", "thermal": "1"})
RGB, THERMAL = torch.zeros(2, 3), torch.zeros(2, 1)


def test_splits_inputs_from_target() -> None:
    target = torch.tensor([0, 1])
    assert split(({"rgb": RGB}, target)) == ({"rgb": RGB}, target)
    assert split([{"rgb": RGB}]) == ({"rgb": RGB}, None)
    assert split({"rgb": RGB}) == ({"rgb": RGB}, None)
    with pytest.raises(
        ss.InputError, match=r"expected \({modality: tensor}, target\), but found \['Tensor', 'Tensor'\]"
    ):
        split((RGB, target))


def test_rows_have_what_is_passed_less_what_present_lacks() -> None:
    present = torch.tensor([[True, True], [False, True]])
    assert available(MODALITIES, {"rgb": RGB, "thermal": THERMAL, "present": present}).equal(present)
    assert available(MODALITIES, {"thermal": THERMAL, "present": present}).tolist() == [[False, True], [False, True]]
    assert available(MODALITIES, {"rgb": RGB, "thermal": None}).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize(
    "present", [torch.ones(2, 2).int(), torch.ones(2, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool), [True]]
)
def test_refuses_a_present_of_another_form(present: object) -> None:
    with pytest.raises(ss.InputError, match=r"a batch of the loader: `present`: expected (a bool|shape \(2, 2\))"):
        available(MODALITIES, {"present": present, "rgb": RGB})


def test_refuses_unknown_names() -> None:
    with pytest.raises(ss.InputError, match=r"unknown modality 'thermall'.*thermal"):
        available(MODALITIES, {"rgb": RGB, "thermall": THERMAL})


def test_counts_rows_inside_mappings() -> None:
    assert num_rows({"text": {"ids": torch.zeros(5, 7)}}) == 5
    with pytest.raises(ss.InputError, match="expected a tensor among the inputs"):
        num_rows({"rgb": None})


def test_takes_rows_of_what_has_them() -> None:
    data = {
        "rgb": torch.arange(6).view(3, 2),
        "sizes": (torch.arange(3), torch.arange(3)),
        "names": ["a", "b", "c"],
        1: 5,
    }
    taken = take(data, torch.tensor([0, 2]), 3)
    assert taken["rgb"].tolist() == [[0, 1], [4, 5]]
    assert [one.tolist() for one in taken["sizes"]] == [[0, 2], [0, 2]]
    assert taken["names"] == ["a", "c"]
    assert taken[1] == 5
    assert take(data, torch.arange(3), 3) is data


def test_a_pair_is_no_list_of_two_rows() -> None:
    first, second = torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 6])
    assert [one.tolist() for one in take((first, second), torch.tensor([1]), 2)] == [[[3, 4]], [6]]
    assert [one.tolist() for one in take([first, second], torch.tensor([1]), 2)] == [[[3, 4]], [6]]
    boxes = [{"boxes": torch.zeros(2, 4)}, {"boxes": torch.ones(2, 4)}]  # as many boxes as rows
    assert take(boxes, torch.tensor([1]), 2) == [boxes[1]]
    Pair = namedtuple("Pair", "a b")
    taken = take(Pair(first, ["x", "y"]), torch.tensor([0]), 2)
    assert isinstance(taken, Pair)
    assert (taken.a.tolist(), taken.b) == ([[1, 2]], ["x"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(5, 6), r"target of a batch: expected 3 rows.*found shape \(5, 6\)"),
        ([torch.zeros(3), torch.zeros(1, 4)], r"target\[1\] of a batch.*found shape \(1, 4\).*a mapping for each row"),
        ({"names": ["a", "b"]}, r"target\['names'\] of a batch: expected 3 rows.*found list of 2 entries"),
    ],
)
def test_what_has_other_rows_is_refused_when_rows_are_taken(target: object, message: str) -> None:
    assert take(target, torch.arange(3), 3) is target
    with pytest.raises(ss.InputError, match=message):
        take(target, torch.tensor([0]), 3)


def test_a_target_for_metrics_has_the_rows_of_the_inputs() -> None:
    for target, message in [
        (None, "but found none"),
        ([1, 2], "found list"),
        (torch.tensor(1), "found Tensor without axes"),
        (torch.zeros(3), r"expected a target of 2 rows, as many as the inputs have, but found shape \(3,\)"),
    ]:
        with pytest.raises(ss.InputError, match=message):
            split_labelled(({"rgb": RGB}, target))
