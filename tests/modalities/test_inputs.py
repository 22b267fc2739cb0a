"""What callers pass: every fault by its own message, and what a batch says of itself."""

import pytest
import torch

from subsense import InputError, Modalities
from subsense.modalities.inputs import check_finite, check_not_empty, named, read

MODALITIES = Modalities({"rgb": "3 H W", "depth": "1 H W", "text": {"ids": "L:int64", "mask": "L:int64"}})
RGB, DEPTH = torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4, 5)
TEXT = {"ids": torch.zeros(2, 7, dtype=torch.int64), "mask": torch.zeros(2, 7, dtype=torch.int64)}
EVERYTHING = {"rgb": RGB, "depth": DEPTH, "text": TEXT}


def rows(*present: str) -> torch.Tensor:
    return torch.stack([MODALITIES.present(one) for one in present])


@pytest.mark.parametrize("absent", [{}, {"depth": None}])
def test_what_is_not_passed_is_missing_in_every_row(absent: dict) -> None:
    batch = read(MODALITIES, {"rgb": RGB, "text": TEXT} | absent)
    assert batch.present.tolist() == [[True, False, True]] * 2
    assert batch.whole == {"rgb", "text"}
    assert batch.code == MODALITIES.code("rgb+text")
    assert batch.tensors["depth"] is None
    assert batch.sizes == {"H": 4, "W": 5, "L": 7}
    assert batch.shape("depth", MODALITIES["depth"].parts["depth"]) == (2, 1, 4, 5)


def test_present_says_it_per_row() -> None:
    batch = read(MODALITIES, EVERYTHING, rows("rgb+text", "rgb+depth"))
    assert batch.whole == {"rgb"}
    assert batch.code is None


def test_rows_that_agree_are_one_combination() -> None:
    batch = read(MODALITIES, EVERYTHING, rows("depth", "depth"))
    assert batch.whole == {"depth"}
    assert batch.code == MODALITIES.code("depth")


def test_the_argument_goes_before_the_entry_of_the_batch() -> None:
    inputs = EVERYTHING | {"present": rows("rgb", "rgb")}
    assert read(MODALITIES, inputs).code == MODALITIES.code("rgb")
    assert read(MODALITIES, inputs, rows("text", "text")).code == MODALITIES.code("text")


def test_named_gives_inputs_back_in_the_callers_shape() -> None:
    filled = {"rgb": (RGB,), "depth": (DEPTH,), "text": (TEXT["ids"], TEXT["mask"])}
    assert named(MODALITIES, filled) == EVERYTHING


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([RGB, DEPTH], "expected a mapping of modality to tensor, but found list"),
        ({"rgb": RGB, "dept": DEPTH}, "unknown modality 'dept'.* Did you mean 'depth'?"),
        ({}, "all modalities are missing: pass at least one of rgb, depth, text"),
        ({"rgb": None, "depth": None}, "all modalities are missing"),
        ({"rgb": [1.0]}, "input 'rgb': expected a tensor, but found list"),
        ({"rgb": RGB[0]}, r"input 'rgb': expected 4 axes \(batch 3 H W\), but found shape \(3, 4, 5\)"),
        ({"rgb": RGB[:, :2]}, r"input 'rgb': expected size 3 on axis 1 \(3\), as declared.*but found 2"),
        (
            {"rgb": RGB, "depth": DEPTH[..., :4]},
            r"input 'depth': expected size 5 on axis 3 \(W\), as in 'rgb', but found 4",
        ),
        ({"rgb": RGB.double()}, "input 'rgb': expected dtype float32, but found float64; .*declare '3 H W:float64'"),
        ({"rgb": RGB, "depth": DEPTH[:1]}, "input 'depth': expected 2 rows as in 'rgb', but found 1"),
        ({"rgb": RGB[:0]}, "input 'rgb': expected at least one row"),
        ({"text": TEXT["ids"]}, r"modality 'text': expected a mapping with \['ids', 'mask'\], but found Tensor"),
        ({"text": {"ids": TEXT["ids"]}}, r"expected a mapping with \['ids', 'mask'\], but found \['ids'\]"),
        ({"text": TEXT | {"mask": TEXT["mask"][:, :3]}}, r"input 'mask': expected size 7 on axis 1 \(L\), as in 'ids'"),
        ({"rgb": RGB.to("meta"), "depth": DEPTH}, "input 'depth' is on cpu, but 'rgb' is on meta"),
    ],
)
def test_refuses_inputs(inputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(MODALITIES, inputs)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (torch.ones(2, 3).int(), "`present`: expected a bool tensor.*found torch.int32"),
        ([[True] * 3] * 2, "`present`: expected a bool tensor.*found list"),
        (
            torch.ones(2, 2, dtype=torch.bool),
            r"`present`: expected shape \(2, 3\), rows x \(rgb, depth, text\), but found \(2, 2\)",
        ),
        (torch.ones(3, dtype=torch.bool), r"expected shape \(2, 3\).*found \(3,\)"),
        (torch.tensor([[True, True, True], [False] * 3]), "`present`: row 1 has no modality present"),
    ],
)
def test_refuses_present(present: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(MODALITIES, EVERYTHING, present)


def test_refuses_to_call_present_what_was_not_passed() -> None:
    with pytest.raises(InputError, match="`present` says that 'depth' is there, but no 'depth' was passed"):
        read(MODALITIES, {"rgb": RGB}, rows("rgb", "rgb+depth"))


def test_names_a_letter_that_no_input_resolves() -> None:
    batch = read(MODALITIES, {"rgb": RGB})
    with pytest.raises(InputError, match="modality 'text' is missing and axis 'L' of 'L:int64' can't be resolved"):
        batch.shape("text", MODALITIES["text"].parts["ids"])


@pytest.mark.parametrize("value", [9.969209968386869e36, -3.4028234e38])
def test_what_files_write_where_nothing_was_measured_is_no_number(value: float) -> None:
    modalities = Modalities({"heat": "3", "wind": "3"})
    heat, present = torch.ones(3, 3), torch.tensor([[True, True], [False, True], [True, True]])
    heat[1:, 1] = value
    with pytest.raises(
        InputError, match=r"input 'heat': expected numbers below 1e\+30, but found .*e\+3[68] in row 2,"
    ):
        check_finite(modalities, read(modalities, {"heat": heat, "wind": torch.ones(3, 3)}, present))
    heat[2, 1] = 1e29
    check_finite(modalities, read(modalities, {"heat": heat, "wind": torch.ones(3, 3)}, present))


def test_what_holds_nothing_is_refused_and_the_advice_helps() -> None:
    modalities = Modalities({"rgb": "3", "text": "T 8"})
    with pytest.raises(InputError, match=r"input 'text': axis 'T' has no size, shape \(2, 0, 8\)"):
        check_not_empty(modalities, read(modalities, {"rgb": torch.ones(2, 3), "text": torch.ones(2, 0, 8)}))
    placeholder, present = torch.ones(2, 1, 8), torch.tensor([[True, False]] * 2)
    check_not_empty(modalities, read(modalities, {"rgb": torch.ones(2, 3), "text": placeholder}, present))
    numbers = Modalities({"rgb": "3", "text": "4 8"})
    check_not_empty(numbers, read(numbers, {"rgb": torch.ones(2, 3)}))
