"""Thousands of recipes and declarations: a valid one works, any other gives an error that names the field."""

import copy
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import subsense as ss
from subsense.recipes.reading import load_recipe, parse_recipe, shipped_recipes

FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=1000)
SMALL = {
    "network": {"name": "digits-transformer"},
    "data": {"name": "digits"},
    "adapt": {"method": ["ssf", {"lora": {"rank": 2}}], "sharing": "additive", "fill": "zeros", "include": ["*"]},
    "pretrain": {"epochs": 2, "lr": 1e-3, "batch_size": 32, "loss": {"cross_entropy": {"label_smoothing": 0.1}}},
    "train": {"strategy": "joint", "loss": "distill", "epochs": 2, "lr": 1e-2, "batch_size": 32},
    "evaluate": {"metric": "accuracy", "dedicated": ["nw"]},
    "seed": 0,
    "output": "runs/digits",
}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["ssf", "all", "zeros", "nw+ne", "nw+nw", "math:sqrt", "nowhere:x", "math:pi", "1e-2", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in entries for place in ((*path, key), *places(value, (*path, key)))]


@st.composite
def recipes(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a recipe in which one value is replaced, removed or added; and the first key on the way to it."""
    data = copy.deepcopy(SMALL)
    place = draw(st.sampled_from(places(data)))
    group: Any = data
    for key in place[:-1]:
        group = group[key]
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            group[place[-1]] = draw(JUNK)
        case "remove":
            del group[place[-1]]
        case "add" if isinstance(group, dict):
            group[draw(st.text(min_size=1, max_size=8))] = draw(JUNK)
    return yaml.safe_dump(data, allow_unicode=True), str(place[0])


def check_recipe(drawn: tuple[str, str]) -> None:
    text, field = drawn
    try:
        recipe = parse_recipe(text)
    except ss.SubsenseError as error:
        changed = [key for key in yaml.safe_load(text) if key not in SMALL]
        if not any(word in str(error) for word in (field, *map(str, changed))):
            raise AssertionError(f"names neither {field} nor {changed}") from error
        return
    assert recipe.network.name == "digits-transformer"


@given(recipes())
@FEW
def test_a_recipe_is_valid_or_its_error_names_the_field(drawn: tuple[str, str]) -> None:
    check_recipe(drawn)


@pytest.mark.slow
@given(recipes())
@MANY
def test_a_thousand_recipes_are_valid_or_their_errors_name_the_field(drawn: tuple[str, str]) -> None:
    check_recipe(drawn)


def test_every_shipped_recipe_is_valid() -> None:
    for name in shipped_recipes():
        load_recipe(name)


NAMES = st.text(max_size=8) | st.sampled_from(["rgb", "left", "present", "target", "a+b", "", " ", "é", "a.b"]) | JUNK
AXES = (
    st.lists(st.sampled_from(["3", "H", "W", "0", "-1", "1.5", "T", "99999999999999999999", "é", ""]), max_size=4)
    .map(" ".join)
    .flatmap(lambda shape: st.sampled_from([shape, f"{shape}:int64", f"{shape}:float99", f"{shape}:"]))
    | JUNK
)
DECLARATIONS = st.lists(st.tuples(NAMES, AXES), max_size=3)


def check_declaration(pairs: list[tuple[Any, Any]]) -> None:
    try:
        declared = dict(pairs)
    except TypeError:  # not a key of any mapping
        return
    try:
        modalities = ss.Modalities(declared)
    except ss.ModalityError as error:
        if declared and not any(repr(part) in str(error) for pair in pairs for part in pair):
            raise AssertionError(f"names nothing of {pairs}") from error
        return
    assert list(modalities) == list(declared)
    for combination in modalities.incomplete():
        assert modalities.combination(str(combination)) == combination
        assert modalities.from_present(modalities.present(combination)) == combination
        assert isinstance(modalities.present(combination), torch.Tensor)


@given(DECLARATIONS)
@FEW
def test_a_declaration_is_valid_or_its_error_names_what_is_wrong(pairs: list[tuple[Any, Any]]) -> None:
    check_declaration(pairs)


@pytest.mark.slow
@given(DECLARATIONS)
@MANY
def test_a_thousand_declarations_are_valid_or_their_errors_name_what_is_wrong(pairs: list[tuple[Any, Any]]) -> None:
    check_declaration(pairs)
