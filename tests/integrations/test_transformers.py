"""A language model with text, image and audio: prompts without a modality's tokens, batches that differ, generating."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omni
import subsense as ss
from subsense.errors import FoldError, InputError, ModalityError
from subsense.integrations.transformers import LanguageModelCall

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
GREEDY = {"max_new_tokens": 4, "do_sample": False}
SAMPLED = {"max_new_tokens": 6, "do_sample": True, "top_k": 20}
KEPT = ["scale", "bitfit"]


def adapted(method: Any = KEPT, **options: Any) -> ss.RobustModel:
    robust = ss.adapt(omni.thinker(), omni.MODALITIES, call=omni.call(), fill="omit", method=method, **options)
    robust.mark_trained("all")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank.copy_(0.3 * torch.randn(bank.shape, generator=generator))
    return robust.eval()


@pytest.fixture(scope="module")
def robust() -> Iterator[ss.RobustModel]:
    return adapted()


def given(values: dict[str, Any], combination: ss.Combination) -> dict[str, Any]:
    return {name: values[name] for name in combination}


def row_of(values: Any, row: int) -> Any:
    return {k: row_of(v, row) for k, v in values.items()} if isinstance(values, dict) else values[row : row + 1]


def written_prompt(combination: ss.Combination, ids: Tensor) -> Tensor:
    """Write by hand the prompt that a user of the model would pass without the rest."""
    gone = {"image": [omni.IMAGE_START, omni.IMAGE, omni.IMAGE_END], "audio": [58, 59, omni.AUDIO]}
    removed = [token for name, tokens in gone.items() if name not in combination for token in tokens]
    rows = ids.tolist() if "text" in combination else [omni.PROMPT] * len(ids)
    return torch.tensor([[token for token in row if token not in removed] for row in rows])


@pytest.mark.parametrize("name", ["text", "audio", "text+image", "text+audio", "image+audio"])
def test_what_is_missing_is_as_if_it_had_never_been_in_the_prompt(robust: ss.RobustModel, name: str) -> None:
    values, combination = omni.inputs(2), robust.modalities.combination(name)
    ids = written_prompt(combination, values["text"]["input_ids"])
    others = {
        part: tensor.flatten(0, 1) if part in ("pixel_values", "image_grid_thw") else tensor
        for modality in combination
        if modality != "text"
        for part, tensor in values[modality].items()
    }
    with torch.no_grad():
        expected = omni.thinker().eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **others)
        found = robust.pretrained(given(values, combination))
    torch.testing.assert_close(found.logits[:, -3:], expected.logits[:, -3:], **TOLERANCE)


@pytest.mark.parametrize("training", [False, True])
def test_rows_that_differ_equal_row_by_row(training: bool) -> None:
    robust, values = adapted(sharing="additive").train(training), omni.inputs(6)
    present = torch.tensor([[True, False, True], [False, True, True], [True, True, True]] * 2)
    mixed = robust(values, present).logits
    for row, has in enumerate(present):
        some = {name: row_of(values[name], row) for name, is_there in zip(values, has, strict=True) if is_there}
        torch.testing.assert_close(mixed[row : row + 1], robust(some).logits, **TOLERANCE)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_generating_equals_the_folds(robust: ss.RobustModel, options: dict[str, Any]) -> None:
    values = omni.inputs(2)
    for name in ("text", "text+audio", "image+audio"):
        combination = robust.modalities.combination(name)
        some, folded = given(values, combination), ss.fold(robust, combination)
        torch.manual_seed(5)
        found = robust.generate(some, **options)
        torch.manual_seed(5)
        expected = folded.generate(**omni.call().arguments(folded, some), **options)
        assert torch.equal(found, expected)
        frozen = robust.network.generate
        with pytest.raises(ss.errors.PlanError, match=r"model\.generate"):
            frozen(**omni.call().arguments(folded, some))


def test_generating_differs_from_the_frozen_network_and_needs_no_cache(robust: ss.RobustModel) -> None:
    some = given(omni.inputs(4), robust.modalities.combination("text+audio"))
    options = {"max_new_tokens": 8, "do_sample": False}
    found = robust.generate(some, **options)
    assert torch.equal(found, robust.generate(some, **options, use_cache=False))
    with robust.no_adapters():
        frozen = robust.network.generate(**omni.call().arguments(robust.network, some), **options)
    assert found.shape != frozen.shape or not torch.equal(found, frozen)


def test_everything_present_generates_as_the_network_did(robust: ss.RobustModel) -> None:
    values, network = omni.inputs(2), omni.thinker().eval()
    expected = network.generate(**omni.call().arguments(network, values), **GREEDY)
    assert torch.equal(robust.generate(values, **GREEDY), expected)


def test_rows_that_differ_generate_in_groups(robust: ss.RobustModel) -> None:
    values = omni.inputs(4)
    present = torch.tensor([[True, False, True], [True, True, False], [True, False, True], [True, True, True]])
    mixed = robust.generate(values, present, max_new_tokens=6, do_sample=False, num_return_sequences=1)
    for row, has in enumerate(present):
        some = {name: row_of(values[name], row) for name, is_there in zip(values, has, strict=True) if is_there}
        alone = robust.generate(some, max_new_tokens=6, do_sample=False)[0]
        assert mixed[row, : len(alone)].tolist() == alone.tolist()
        assert not mixed[row, len(alone) :].any()
    with pytest.raises(InputError, match="leave out return_dict_in_generate"):
        robust.generate(values, present, return_dict_in_generate=True, **GREEDY)
    with pytest.raises(InputError, match="expected `present` as bool"):
        robust.generate(values, torch.full((4, 3), 0.5), **GREEDY)


@pytest.mark.parametrize("method", [KEPT, ["scale"], ["norm"], ["lora"]], ids="+".join)
def test_a_fold_survives_save_pretrained(method: list[str], tmp_path: Path) -> None:
    robust = adapted(method=method)
    some = given(omni.inputs(2), robust.modalities.combination("text+image"))
    folded = ss.fold(robust, "text+image", example=omni.inputs(2)).eval()
    folded.save_pretrained(tmp_path)
    read = type(folded).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(omni.call()(read, some).logits, robust(some).logits, **TOLERANCE)


def test_a_fold_with_new_biases_refuses_save_pretrained(tmp_path: Path) -> None:
    robust = ss.adapt(omni.thinker(), omni.MODALITIES, call=omni.call(), fill="omit", sharing="additive")
    robust.mark_trained("all")
    with torch.no_grad():
        for bank in robust.banks.parameters():
            bank += 0.1
    with pytest.raises(FoldError, match="scale"):
        ss.fold(robust, "text").save_pretrained(tmp_path)


def test_types_of_tokens_and_trimming() -> None:
    call = LanguageModelCall({"image": [9]}, types={"token_type_ids": {9: 1}}, trim=True)
    ids = {"input_ids": torch.tensor([[1, 9, 9, 4], [1, 9, 4, 5]])}
    whole = call.arguments(nn.Identity(), {"text": ids, "image": {"pixel_values": torch.ones(2, 3)}})
    assert whole["token_type_ids"].tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]
    without = call.arguments(nn.Identity(), {"text": ids})
    assert without["input_ids"].tolist() == [[0, 1, 4], [1, 4, 5]]
    assert without["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert without["token_type_ids"].tolist() == [[0] * 3] * 2
    assert "pixel_values" not in without


def test_a_missing_text_needs_a_prompt() -> None:
    call = LanguageModelCall({"image": [9]})
    with pytest.raises(ModalityError, match=r"prompt=\[\.\.\.\]"):
        call.arguments(nn.Identity(), {"image": {"pixel_values": torch.ones(2, 3)}})


def test_what_does_not_generate_is_refused() -> None:
    robust = ss.adapt(nn.Conv2d(4, 2, 1), {"rgb": "3 H W", "depth": "1 H W"}, call="channels")
    with pytest.raises(InputError, match="Conv2d has no `generate`"):
        robust.generate({"rgb": torch.zeros(1, 3, 2, 2)})
    robust = ss.adapt(omni.thinker(), omni.MODALITIES, call=lambda network, inputs: network(**inputs), fill="omit")
    robust.mark_trained("all")
    with pytest.raises(InputError, match="LanguageModelCall"):
        robust.generate({"text": omni.inputs(1)["text"]})


def test_the_page_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "language-models.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "language-models.md", "exec"), names)
    assert names["mixed"].shape[0] == 4
    assert "the network doesn't call model.audio_tower" in str(names["report"])
