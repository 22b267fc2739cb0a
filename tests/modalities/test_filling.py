"""What stands in for a missing input, and that a value passed for it is never read."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import METHODS, SHARINGS, TOWERS, draw, make, with_sets
from subsense import Constant, InputError, Mean, Modalities, ModalityError, adapt
from subsense.modalities.filling import Filling
from subsense.modalities.inputs import read

MODALITIES = Modalities({"rgb": "3 H W", "sound": "T 4"})
PRESENT = torch.tensor([[True, False], [False, True], [True, True]])
NAN = float("nan")


def batch(rows: int = 3, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    return draw(MODALITIES.spec, rows, seed, **sizes)


def fill_in(fill: Filling, inputs: dict[str, Any], present: Tensor | None = None) -> dict[str, Tensor]:
    return {name: tensors[0] for name, tensors in fill(read(fill.modalities, inputs, present)).items()}


def test_zeros_take_the_place_of_a_missing_modality_and_of_missing_rows() -> None:
    inputs, fill = batch(), Filling(MODALITIES)
    assert fill.spec == "zeros"
    depth = Filling(Modalities({"rgb": "3 H W", "depth": "1 H W:float64"}))
    filled = fill_in(depth, {"rgb": inputs["rgb"]})
    assert torch.equal(filled["rgb"], inputs["rgb"])
    assert torch.equal(filled["depth"], torch.zeros(3, 1, 6, 6, dtype=torch.float64))
    mixed = fill_in(fill, inputs, PRESENT)
    for column, name in enumerate(MODALITIES):
        has = PRESENT[:, column]
        assert torch.equal(mixed[name][has], inputs[name][has])
        assert not mixed[name][~has].any()


def test_what_is_whole_is_passed_on_as_it_is() -> None:
    inputs = batch()
    filled = fill_in(Filling(MODALITIES), inputs)
    assert all(filled[name] is inputs[name] for name in MODALITIES)


def test_mean_is_numpys_over_present_rows_and_lettered_axes() -> None:
    batches = [batch(3, 1, H=2, W=5, T=3), batch(3, 2, H=4, W=3, T=7)]
    batches[0]["rgb"][1] = batches[0]["sound"][0] = NAN
    data = [(batches[0] | {"present": PRESENT}, "target"), {"rgb": batches[1]["rgb"]}]
    fill = Filling(MODALITIES, Mean(data))
    rgb = [
        part[has].numpy().transpose(1, 0, 2, 3).reshape(3, -1)
        for part, has in ((batches[0]["rgb"], PRESENT[:, 0]), (batches[1]["rgb"], slice(None)))
    ]
    sound = batches[0]["sound"][PRESENT[:, 1]].numpy()
    means = fill.stand_ins()
    np.testing.assert_allclose(means["fill.rgb.rgb"].flatten(), np.concatenate(rgb, 1).mean(1), rtol=1e-5)
    np.testing.assert_allclose(means["fill.sound.sound"].flatten(), sound.mean((0, 1)), rtol=1e-5)
    filled = fill_in(fill, {"sound": batch(T=9)["sound"]} | {"rgb": batch(H=2, W=2)["rgb"]}, PRESENT)
    np.testing.assert_allclose(filled["rgb"][1, :, 1, 0], np.concatenate(rgb, 1).mean(1), rtol=1e-5)


def test_mean_keeps_a_mean_for_each_place_of_sized_axes() -> None:
    data = [draw(TOWERS, 5, seed) for seed in range(3)]
    fill = Filling(Modalities(TOWERS), {"right": Mean(data)})
    assert fill.spec == {"left": "zeros", "right": "mean"}
    stacked = torch.cat([one["right"] for one in data])
    torch.testing.assert_close(fill_in(fill, {"left": data[0]["left"]})["right"], stacked.mean(0).expand(5, -1))


def test_a_learned_stand_in_gets_its_gradient_from_the_rows_that_lack_the_modality() -> None:
    fill = Filling(MODALITIES, "learned")
    fill_in(fill, batch(), PRESENT)["sound"].sum().backward()
    assert torch.equal(fill.get_parameter("sound:sound").grad, torch.full((1, 4), 6.0))  # one row x T
    assert fill.get_parameter("rgb:rgb").grad is None


def test_a_callable_sees_zeros_where_inputs_are_missing() -> None:
    inputs, seen = batch(), {}

    def invent(name: str, given: dict[str, Tensor], present: Tensor) -> Tensor:
        seen[name] = {key: value.clone() for key, value in given.items()} | {"present": present}
        return torch.full_like(given[name], 7.0)

    poisoned = {name: tensor.clone() for name, tensor in inputs.items()}
    poisoned["rgb"][1], poisoned["sound"][0] = NAN, NAN
    filled = fill_in(Filling(MODALITIES, {"sound": invent}), poisoned, PRESENT)
    assert list(seen) == ["sound"]
    assert torch.equal(seen["sound"]["present"], PRESENT)
    assert not seen["sound"]["rgb"][1].any()
    assert not seen["sound"]["sound"][0].any()
    assert bool((filled["sound"][0] == 7).all())
    assert torch.equal(filled["sound"][1:], inputs["sound"][1:])


def test_a_callable_is_not_asked_where_nothing_is_missing() -> None:
    fill = Filling(MODALITIES, lambda *_: pytest.fail("called"))
    fill_in(fill, batch())


PARTS = Modalities({"rgb": "3", "text": {"ids": "5:int64", "mask": "5:bool"}})


def test_a_callable_fills_all_tensors_of_a_modality() -> None:
    made = {"ids": torch.full((2, 5), 9), "mask": torch.ones(2, 5, dtype=torch.bool)}
    filled = Filling(PARTS, {"text": lambda *_: made})(read(PARTS, {"rgb": torch.zeros(2, 3)}))
    assert [tensor.tolist() for tensor in filled["text"]] == [tensor.tolist() for tensor in made.values()]


def test_a_constant_fills_every_row_alike() -> None:
    white = Constant(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), name="white")
    fill = Filling(MODALITIES, {"rgb": white, "sound": Constant(0.1)})
    assert fill.spec == {"rgb": "white", "sound": "constant"}
    filled = fill_in(fill, batch(H=2, W=5), PRESENT)
    assert filled["rgb"][1, :, 1, 4].tolist() == [1, 2, 3]
    assert torch.equal(filled["sound"][0], torch.full((6, 4), 0.1))
    assert torch.equal(filled["rgb"][[0, 2]], batch(H=2, W=5)["rgb"][[0, 2]])


def test_a_constant_has_a_value_for_each_tensor_of_a_modality() -> None:
    empty = Constant({"ids": torch.tensor([2, 3, 0, 0, 0]), "mask": torch.tensor([1, 1, 0, 0, 0])}, name="empty")
    ids, mask = Filling(PARTS, {"text": empty})(read(PARTS, {"rgb": torch.zeros(2, 3)}))["text"]
    assert ids.tolist() == [[2, 3, 0, 0, 0]] * 2
    assert mask.tolist() == [[True, True, False, False, False]] * 2


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        (Constant({"ids": 1}), r"expected a value for each of \['ids', 'mask'\], but found \['ids'\]"),
        (Constant({"ids": 1, "mask": 1, "type": 0}), r"but found \['ids', 'mask', 'type'\]"),
        (Constant({"ids": 0.5, "mask": 1}), "input 'ids' is int64, which can't hold 0.5"),
        (Constant({"ids": 1, "mask": 2}, "two"), "fill 'two' for 'text': input 'mask' is bool, which can't hold 2"),
        (Constant({"ids": torch.ones(4), "mask": 1}), r"broadcasts to \(5,\) .* but found shape \(4,\)"),
    ],
)
def test_refuses_a_constant(constant: Constant, message: str) -> None:
    with pytest.raises(ModalityError, match=message):
        Filling(PARTS, {"text": constant})


@pytest.mark.parametrize("name", ["mean", ""])
def test_a_constant_is_not_named_like_another_fill(name: str) -> None:
    with pytest.raises(ModalityError, match=f"a constant can't be called {name!r}"):
        Constant(1.0, name)


@pytest.mark.parametrize(
    ("modalities", "filled", "made", "message"),
    [
        (MODALITIES, "sound", torch.zeros(3, 6, 5), r"expected 'sound' as \(3, 6, 4\) .*, but found \(3, 6, 5\)"),
        (MODALITIES, "sound", torch.zeros(3, 6, 4).double(), "but found .* torch.float64"),
        (MODALITIES, "sound", None, "but found NoneType"),
        (PARTS, "text", torch.zeros(3, 5), r"expected a mapping with \['ids', 'mask'\], but found Tensor"),
        (PARTS, "text", {"ids": torch.zeros(3, 5)}, r"but found \['ids'\]"),
    ],
)
def test_refuses_what_a_callable_makes(modalities: Modalities, filled: str, made: Any, message: str) -> None:
    inputs = batch() if filled == "sound" else {"rgb": torch.zeros(3, 3)}
    with pytest.raises(InputError, match=f"fill function for {filled!r}: .*{message}"):
        Filling(modalities, {filled: lambda *_: made})(read(modalities, inputs, PRESENT if filled == "sound" else None))


@pytest.mark.parametrize(
    ("modalities", "fill", "message"),
    [
        (MODALITIES, "zeroes", "fill for 'rgb': expected 'zeros', .* but found 'zeroes'. Did you mean 'zeros'?"),
        (MODALITIES, {"son": "zeros"}, "fill: unknown modality 'son'"),
        (MODALITIES, "mean", r"needs data to take it from: fill=subsense.Mean\(train_loader\)"),
        (MODALITIES, Mean([{"rgb": torch.zeros(1, 3, 2, 2)}]), "'sound': the data has no row in which it is present"),
        (PARTS, {"text": "learned"}, "fill 'learned' for 'text': input 'ids' is int64"),
        (PARTS, {"text": Mean([])}, "fill 'mean' for 'text': input 'ids' is int64"),
    ],
)
def test_refuses_a_fill(modalities: Modalities, fill: Any, message: str) -> None:
    with pytest.raises(ModalityError, match=message):
        Filling(modalities, fill)


FILLS = {
    "zeros": "zeros",
    "mean": Mean([draw(TOWERS, 5, 3)]),
    "learned": "learned",
    "constant": Constant(0.5),
    "callable": lambda name, inputs, present: inputs[name] + inputs["left"].mean() + present.sum(),
}


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize(
    ("fill", "method"), [(fill, "ssf") for fill in FILLS] + [("zeros", one) for one in METHODS[1:]]
)
def test_a_value_passed_for_a_missing_modality_is_never_read(fill: str, sharing: str, method: Any) -> None:
    network, options = make("towers")
    robust = with_sets(adapt(network, **options, fill=FILLS[fill], sharing=sharing, method=method))
    inputs = draw(TOWERS, 3)
    poisoned = {name: tensor.clone() for name, tensor in inputs.items()}
    for column, name in enumerate(TOWERS):
        poisoned[name][~PRESENT[:, column]] = NAN
    assert torch.equal(robust(poisoned, PRESENT), robust(inputs, PRESENT))
    whole = PRESENT[:1].expand(3, -1)
    nothing = {"left": inputs["left"], "right": torch.full_like(inputs["right"], NAN)}
    assert torch.equal(robust(nothing, whole), robust({"left": inputs["left"]}))


def test_poison_reaches_no_gradient() -> None:
    network, options = make("towers")
    robust = adapt(network, **options, fill="learned").train()
    robust({"left": draw(TOWERS, 3)["left"], "right": torch.full((3, 6), NAN)}, PRESENT[[0, 0, 0]]).sum().backward()
    gradients = [parameter.grad for parameter in robust.adapter_parameters().values() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
