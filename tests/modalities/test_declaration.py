"""Names, axis strings, and the algebra of subsets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subsense import Combination, InputError, Modalities, ModalityError
from subsense.modalities import Axes

WORDS = st.text("abcXYZ_09", min_size=1, max_size=4).filter(lambda word: not word[0].isdigit())
AXES = st.builds(
    Axes,
    st.lists(WORDS | st.integers(1, 999), max_size=4).map(tuple),
    st.sampled_from(["float32", "float16", "bfloat16", "int64", "bool"]),
)
NAMES = st.lists(
    st.text("abcdefg .-", min_size=1, max_size=5).filter(lambda n: n == n.strip()), min_size=2, max_size=6, unique=True
)
MODALITIES = NAMES.map(lambda names: Modalities(dict.fromkeys(names, "3")))


@st.composite
def modalities_and_subset(draw: st.DrawFn) -> tuple[Modalities, list[str]]:
    modalities = draw(MODALITIES)
    return modalities, draw(st.lists(st.sampled_from(modalities.names), min_size=1, unique=True))


@given(AXES)
def test_axes_are_read_as_they_are_written(axes: Axes) -> None:
    assert Axes.parse(str(axes)) == axes


@given(modalities_and_subset())
def test_a_combination_is_read_from_all_its_forms(case: tuple[Modalities, list[str]]) -> None:
    modalities, names = case
    combination = modalities.combination(names)
    assert set(combination) == set(names)
    assert list(combination) == [name for name in modalities.names if name in names]
    assert all(modalities.combination(form) == combination for form in (str(combination), combination, reversed(names)))


@given(modalities_and_subset())
def test_code_and_present_lead_back(case: tuple[Modalities, list[str]]) -> None:
    modalities, names = case
    combination = modalities.combination(names)
    present = modalities.present(combination)
    assert present.dtype == torch.bool
    assert present.shape == (len(modalities),)
    assert modalities.from_present(present) == combination
    assert modalities.from_code(modalities.code(combination)) == combination


@given(MODALITIES)
def test_combinations_are_all_subsets_once_singles_first_and_the_complete_one_last(modalities: Modalities) -> None:
    combinations = modalities.combinations()
    assert len(set(combinations)) == len(combinations) == 2 ** len(modalities) - 1
    assert sorted(modalities.code(one) for one in combinations) == list(range(1, 2 ** len(modalities)))
    places = [(len(one), [modalities.names.index(name) for name in one]) for one in combinations]
    assert places == sorted(places)
    assert combinations[-1] == modalities.complete
    assert modalities.incomplete() == modalities.select("all") == combinations[:-1]


@given(NAMES.flatmap(lambda names: st.fixed_dictionaries(dict.fromkeys(names, AXES.map(str)))))
def test_the_spec_makes_equal_modalities(spec: dict[str, str]) -> None:
    modalities = Modalities(spec)
    assert Modalities(modalities.spec) == modalities
    assert hash(Modalities(modalities.spec)) == hash(modalities)


def test_order_matters() -> None:
    assert Modalities({"a": "1", "b": "2"}) != Modalities({"b": "2", "a": "1"})


def test_select_keeps_the_order_asked_for_without_repeats() -> None:
    modalities = Modalities({"a": "1", "b": "1", "c": "1"})
    chosen = modalities.select(["c+b", "a", ("b", "c"), Combination(("a",))])
    assert [str(one) for one in chosen] == ["b+c", "a"]
    assert modalities.select("a+c") == modalities.select(modalities.combination("a+c")) == (Combination(("a", "c")),)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([("rgb", "3"), ("rgb", "3")], "'rgb' is declared twice"),
        ({"rgb+depth": "3", "x": "1"}, r"'rgb\+depth': a name can't contain '\+'"),
        ({"present": "3", "x": "1"}, "'present': the name is reserved"),
        ({"": "3", "x": "1"}, "expected a modality's name"),
        ({" rgb": "3", "x": "1"}, "without spaces around it"),
        ({1: "3", "x": "1"}, "expected a modality's name"),
        ({"rgb": "3"}, "at least two modalities"),
        (
            {"rgb": "3 H*W", "x": "1"},
            r"'rgb': axis string '3 H\*W': expected a name or a size above 0, but found 'H\*W'",
        ),
        ({"rgb": "0 H", "x": "1"}, "size above 0, but found '0'"),
        ({"rgb": "3:flaot32", "x": "1"}, "unknown dtype 'flaot32'.* Did you mean 'float32'?"),
        ({"rgb": 3, "x": "1"}, "'rgb': expected an axis string or argument -> axis string, but found 3"),
        ({"rgb": {"a": 3}, "x": "1"}, "expected an axis string such as '3 H W', but found 3"),
        ({"rgb": {}, "x": "1"}, "'rgb': expected an axis string or argument -> axis string"),
    ],
)
def test_refuses_a_declaration(spec: object, message: str) -> None:
    with pytest.raises(ModalityError, match=message):
        Modalities(spec)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("rgb+termal", "unknown modality 'termal' in combination 'rgb.termal'; .* Did you mean 'thermal'?"),
        ("rgb+rgb", "expected each modality at most once"),
        ((), "at least one"),
        ("", "unknown modality ''"),
    ],
)
def test_refuses_a_combination(what: object, message: str) -> None:
    with pytest.raises(ModalityError, match=message):
        Modalities({"rgb": "3", "thermal": "1"}).combination(what)


def test_select_refuses_the_complete_combination_and_an_empty_list() -> None:
    modalities = Modalities({"a": "1", "b": "1"})
    with pytest.raises(ModalityError, match=r"a\+b lacks nothing"):
        modalities.select(["a", "a+b"])
    with pytest.raises(ModalityError, match="at least one combination, but found an empty list"):
        modalities.select([])


def test_a_row_of_present_with_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no modality present"):
        Modalities({"a": "1", "b": "1"}).from_present([False, False])
