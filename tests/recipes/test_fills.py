"""What a recipe says of missing inputs: one word for all, or a choice for each modality."""

from typing import Any

import pytest
import torch

import subsense as ss
from subsense.errors import RecipeError
from subsense.recipes.reading import parse_recipe, shipped_recipes
from subsense.recipes.run.fills import make_fill

NAMED = {"text": {"empty-string": {"ids": torch.tensor([2, 3, 0]), "mask": torch.tensor([1, 1, 0])}}}


@pytest.mark.parametrize("word", ["zeros", "learned"])
def test_one_word_is_for_all(word: str) -> None:
    assert make_fill("mine", word, NAMED) == word


def test_a_mean_is_taken_once_for_all_that_ask_for_it() -> None:
    made: list[str] = []

    def batches() -> list[Any]:
        made.append("batches")
        return []

    assert isinstance(make_fill("mine", "mean", {}, batches), ss.Mean)
    fills = make_fill("mine", {"rgb": "mean", "depth": "mean", "text": "zeros"}, {}, batches)
    assert isinstance(fills, dict)
    assert fills["rgb"] is fills["depth"]
    assert made == ["batches"] * 2
    make_fill("mine", {"rgb": "zeros"}, {}, batches)
    assert made == ["batches"] * 2, "no data is read where nothing is measured"


class Three(torch.nn.Module):
    """Take three tensors by place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, rgb: torch.Tensor, wave: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layer(rgb) + wave.sum() + mask.sum()


def test_names_of_the_data_and_constants() -> None:
    asked = {"text": "empty-string", "rgb": 0.5, "audio": {"wave": 0, "mask": [1, 0]}}
    fills = make_fill("mine", asked, NAMED)
    assert isinstance(fills, dict)
    assert fills["text"] == ss.Constant(NAMED["text"]["empty-string"], "empty-string")
    assert fills["rgb"] == ss.Constant(0.5, "the constant 0.5")
    modalities = ss.Modalities({"rgb": "3", "audio": {"wave": "4", "mask": "2:bool"}})
    options = {"fill": {"audio": fills["audio"]}, "call": "positional"}
    filled = ss.adapt(Three(), modalities, **options).fill
    assert filled.stand_ins()["fill.audio.mask"].tolist() == [True, False]


def test_an_unknown_name_is_refused_with_the_near_miss() -> None:
    with pytest.raises(RecipeError, match=r"fill.text: unknown fill 'empty-strng'.*Did you mean 'empty-string'\?"):
        make_fill("mine", {"text": "empty-strng"}, NAMED)
    with pytest.raises(
        RecipeError, match=r"fill.rgb: unknown fill 'zero'; known: zeros, literal-zeros, mean, learned\."
    ):
        make_fill("mine", {"rgb": "zero"}, NAMED)


GOOD = shipped_recipes()["digits"].read_text("utf-8")


@pytest.mark.parametrize("fill", ["learned", "{nw: mean, ne: zeros}", "{nw: 0.5}", "{nw: {pixels: 0.5, mask: [1, 0]}}"])
def test_a_recipe_may_say_a_fill_for_each_modality(fill: str) -> None:
    assert parse_recipe(GOOD, changes=[f"adapt.fill={fill}"]).adapt.fill


@pytest.mark.parametrize("fill", ["zero", "3", "{}", "{nw: {}}", "{nw: [1, 2]}", "{nw: true}", "{nw: {mask: yes}}"])
def test_a_recipe_that_says_something_else_is_refused(fill: str) -> None:
    with pytest.raises(
        RecipeError, match=r"fill: expected one of zeros, literal-zeros, mean, learned, or modality: fill"
    ):
        parse_recipe(GOOD, changes=[f"adapt.fill={fill}"])
