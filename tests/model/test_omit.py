"""Where nothing stands in for what is missing, networks run as their authors meant: without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subsense as ss
from subsense.errors import InputError, LayerNeverCalled, ModalityError

MODALITIES = {"image": "3 4", "sound": "5", "text": "6"}
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


class Skipping(nn.Module):
    """Add up the features of the encoders whose input is there, and give the count of those."""

    def __init__(self, never: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.sound, self.text = nn.Linear(12, 8), nn.Linear(5, 8), nn.Linear(6, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)
        if never:
            self.never = nn.Linear(8, 8)

    def forward(self, text: Tensor | None, image: Tensor | None = None, sound: Tensor | None = None) -> Any:
        features = [
            encoder(given.flatten(1))
            for encoder, given in ((self.image, image), (self.sound, sound), (self.text, text))
            if given is not None
        ]
        output = {"logits": self.head(torch.tanh(self.norm(torch.stack(features).sum(0)))), "count": len(features)}
        if image is not None:
            output["image"] = features[0]
        return output


class Plain(Skipping):
    def forward(self, text: Tensor | None, image: Tensor | None = None, sound: Tensor | None = None) -> Tensor:
        logits: Tensor = super().forward(text, image, sound)["logits"]
        return logits


def inputs(rows: int = 7, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(rows, 3, 4, generator=generator),
        "sound": torch.randn(rows, 5, generator=generator),
        "text": torch.randn(rows, 6, generator=generator),
    }


def adapted(network: nn.Module, stir: bool = True, **options: Any) -> ss.RobustModel:
    robust = ss.adapt(network, MODALITIES, fill="omit", **options)
    robust.mark_trained("all")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for bank in robust.banks.parameters() if stir else ():
            bank.copy_(0.3 * torch.randn(bank.shape, generator=generator))
    return robust.eval()


def given(values: Mapping[str, Tensor], combination: ss.Combination) -> dict[str, Tensor]:
    return {name: values[name] for name in combination}


@pytest.mark.parametrize("sharing", ["independent", "additive"])
def test_each_combination_is_the_network_without_the_rest(sharing: str) -> None:
    robust, values = adapted(Plain(), stir=False, sharing=sharing), inputs()
    for combination in robust.combinations:
        some = given(values, combination)
        torch.testing.assert_close(robust(some), Plain()(**({"text": None} | some)), rtol=0, atol=0)
        torch.testing.assert_close(robust.pretrained(some), Plain()(**({"text": None} | some)), rtol=0, atol=0)


@pytest.mark.parametrize("sharing", ["independent", "additive"])
@pytest.mark.parametrize("training", [False, True])
def test_rows_that_differ_equal_row_by_row(sharing: str, training: bool) -> None:
    robust, values = adapted(Plain(), sharing=sharing).train(training), inputs()
    present = torch.tensor([[bool(code >> bit & 1) for bit in range(3)] for code in range(1, 8)])
    poisoned = {
        name: torch.where(present[:, column].view(-1, *[1] * (value.dim() - 1)), value, torch.nan)
        for column, (name, value) in enumerate(values.items())
    }
    robust.check_inputs = False
    for run in (robust, robust.pretrained):
        mixed = run(poisoned, present)
        for row, has in enumerate(present):
            some = {name: values[name][row : row + 1] for name, is_there in zip(values, has, strict=True) if is_there}
            torch.testing.assert_close(mixed[row : row + 1], run(some), **TOLERANCE)


def test_what_only_some_groups_give_is_left_out() -> None:
    class Named(Skipping):
        def forward(self, text: Tensor | None, image: Tensor | None = None, sound: Tensor | None = None) -> Any:
            output = super().forward(text, image, sound)
            return {name: value for name, value in output.items() if name != "count"}

    robust, values = adapted(Named()), inputs(3)
    present = torch.tensor([[True, True, False], [False, True, True], [True, True, True]])
    mixed = robust(values, present)
    assert list(mixed) == ["logits"]
    torch.testing.assert_close(
        mixed["logits"][1:2], robust({name: values[name][1:2] for name in ("sound", "text")})["logits"], **TOLERANCE
    )


def test_an_output_without_rows_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="no place for rows"):
        adapted(Skipping())(inputs(2), torch.tensor([[True, True, False], [False, True, True]]))


def test_sites_are_called_by_combination_and_the_plan_says_so() -> None:
    robust, values = adapted(Plain()), inputs()
    robust(given(values, robust.modalities.combination("text")))
    assert robust.plan.silent() == {"text": ("image", "sound")}
    assert "text calls 3 of 5 sites, not image, sound" in str(robust.plan)


def test_a_site_that_no_combination_calls_is_an_error_once_that_is_known() -> None:
    robust, values = adapted(Plain(never=True)), inputs()
    *first, last = robust.combinations
    for combination in first:
        robust(given(values, combination))
    with pytest.raises(LayerNeverCalled, match=r"exclude=\['never'\]"):
        robust(given(values, last))
    ss.adapt(Plain(never=True), MODALITIES, fill="omit", exclude=["never"])


def test_one_modality_is_left_out_and_others_are_filled() -> None:
    robust, values = ss.adapt(Plain(), MODALITIES, fill={"image": "omit"}), inputs()
    robust.mark_trained("all")
    expected = Plain()(text=torch.zeros(7, 6), sound=values["sound"])
    torch.testing.assert_close(robust.eval()({"sound": values["sound"]}), expected, rtol=0, atol=0)
    assert robust.fill.spec == {"image": "omit", "sound": "zeros", "text": "zeros"}


@pytest.mark.parametrize("form", ["positional", "list", "dict", "function"])
def test_other_forms_leave_out(form: str) -> None:
    class Called(Plain):
        def forward(self, *args: Any) -> Tensor:
            first = args[0]
            if isinstance(first, dict):
                return super().forward(**({"text": None} | first))
            image, sound, text = first if isinstance(first, list) else args
            return super().forward(text, image, sound)

    call = (lambda network, inputs: network(inputs)) if form == "function" else form
    robust, values = ss.adapt(Called(), MODALITIES, call=call, fill="omit"), inputs()
    robust.mark_trained("all")
    torch.testing.assert_close(robust.eval()({"sound": values["sound"]}), Plain()(None, sound=values["sound"]))


def test_stacked_modalities_cannot_be_left_out() -> None:
    network = nn.Conv2d(4, 2, 1)
    with pytest.raises(ModalityError, match="fill 'omit' for depth, rgb: call 'channels' stacks"):
        ss.adapt(network, {"rgb": "3 H W", "depth": "1 H W"}, call="channels", fill="omit")
    ss.adapt(network, {"rgb": "3 H W", "depth": "1 H W"}, call="channels", fill="zeros")


@pytest.mark.parametrize("sharing", ["independent", "additive"])
def test_such_a_model_is_trained_evaluated_saved_loaded_and_folded(sharing: str, tmp_path: Path) -> None:
    robust, values = adapted(Plain(), stir=False, sharing=sharing), inputs(16)
    target = torch.arange(16) % 4
    report = ss.train(robust, [(values, target)], loss=nn.functional.cross_entropy, epochs=8, progress=False)
    assert set(report.silent) == {str(one) for one in robust.combinations}
    assert "text: the network doesn't call image, sound" in str(report)
    results = ss.evaluate(robust, [(values, target)], metric="accuracy", progress=False)
    assert len(results.rows) >= 6
    ss.save(robust, tmp_path / "sets")
    loaded = ss.load(tmp_path / "sets", Plain()).eval()
    robust.eval()
    for combination in robust.combinations:
        some = given(values, combination)
        torch.testing.assert_close(loaded(some), robust(some), rtol=0, atol=0)
        folded = ss.fold(robust, combination, example=values)
        args, kwargs = ss.prepare(robust, some)
        torch.testing.assert_close(folded(*args, **kwargs), robust(some), **TOLERANCE)
        assert kwargs.keys() == some.keys() | {"text"}


@pytest.mark.parametrize("name", ["text", "image+sound"])
def test_a_fold_drops_what_is_never_called(name: str) -> None:
    robust, values = adapted(Plain()), inputs()
    some = given(values, robust.modalities.combination(name))
    dropped = ss.fold(robust, name, example=values, drop_absent=True)
    torch.testing.assert_close(dropped(**some), robust(some), **TOLERANCE)
    assert sum(one.numel() for one in dropped.parameters()) < sum(one.numel() for one in Plain().parameters())


@pytest.mark.parametrize("chunk", [None, 20])
@pytest.mark.parametrize("sharing", ["independent", "additive"])
def test_such_a_model_is_calibrated(sharing: str, chunk: int | None) -> None:
    robust, values = adapted(Plain(), stir=False, sharing=sharing), inputs(64)
    report = ss.calibrate(robust, [values], chunk=chunk, progress=False)
    assert set(report.outputs) == {str(one) for one in robust.combinations}
    held = inputs(256, seed=9)
    complete = robust.eval()(held)
    for name in ("sound+text", "image+sound"):
        some = given(held, robust.modalities.combination(name))
        assert (robust(some) - complete).square().mean() < 0.9 * (robust.pretrained(some) - complete).square().mean()


def test_a_graph_of_rows_that_differ_is_refused() -> None:
    robust, values = adapted(Plain()), inputs(4)
    present = torch.tensor([[True, True, False]] * 2 + [[False, True, True]] * 2)
    robust(values, present)
    with pytest.raises(Exception, match="nothing stands in for image, sound, text"):
        torch.compile(robust, backend="eager", fullgraph=True)(values, present)
