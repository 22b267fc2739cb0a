"""`present` -> bank rows, what happens to combinations never trained, and where values are put."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from networks import SHARINGS
from subsense import InputError, Modalities, ModalityError, PlanError, UntrainedCombination
from subsense.routing.choice import Choice
from subsense.routing.placement import Placement
from subsense.routing.route import Route
from subsense.routing.router import Router

MODALITIES = Modalities({"a": "1", "b": "1", "c": "1"})
CPU = torch.device("cpu")


def router(sharing: str, trained: list[str] = [], combinations: object = "all", untrained: str = "error") -> Router:  # noqa: B006
    made = Router(MODALITIES, MODALITIES.select(combinations), sharing, untrained)
    made.trained_rows = made.rows(trained)
    return made


def codes(*combinations: str) -> list[int]:
    return [MODALITIES.code(one) for one in combinations]


def served(made: Router, combination: str, training: bool = False) -> str:
    return str(MODALITIES.from_code(made.substitute(MODALITIES.code(combination), training)))


def test_independent_rows_are_combinations() -> None:
    made = router("independent", combinations=["b", "a+c"])
    assert made.row_names == ("b", "a+c")
    route = made.mixed(codes("a+c", "a+b+c", "b"), CPU, {})
    assert route.choice.index is not None
    assert route.choice.index.tolist() == [1, 0, 0]
    assert route.choice.used is not None
    assert route.choice.used.tolist() == [True, False, True]
    assert route.weights.tolist() == [[0, 1], [0, 0], [1, 0]]


def test_additive_rows_are_what_is_missing() -> None:
    made = router("additive")
    assert made.row_names == ("a", "b", "c")
    route = made.mixed(codes("a+c", "a+b+c", "b"), CPU, {})
    assert route.choice.index is None
    assert route.weights.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_both_sharings_mix_as_weights_times_bank(sharing: str) -> None:
    made = router(sharing)
    bank = torch.randn(len(made.row_names), 5)
    several = codes("a", "a+b", "a+b+c", "b+c")
    placement = {"site": [Placement(0)]}
    like = torch.zeros(4, 2, 5)
    route = made.mixed(several, CPU, placement)
    expected = (route.weights @ bank)[:, None, :]
    torch.testing.assert_close(route.visit("site").blend(bank, like, -1), expected)
    for row, code in enumerate(several[:2]):
        alone = made.uniform(code, CPU).visit("site").blend(bank, like, -1)
        torch.testing.assert_close(alone, expected[row : row + 1])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("policy", ["error", "nearest", "pretrained"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_compiled_route_says_the_same(sharing: str, policy: str, training: bool) -> None:
    made = router(sharing, ["a+b", "b"], untrained=policy)
    present = torch.stack([MODALITIES.present(one) for one in MODALITIES.combinations()])
    weights = made.dynamic(present, {}, training).weights
    for row, code in zip(weights, codes(*map(str, MODALITIES.combinations())), strict=True):
        try:
            expected = made.mixed([made.substitute(code, training)], CPU, {}).weights[0]
        except UntrainedCombination:
            expected = torch.full_like(row, float("nan"))
        torch.testing.assert_close(row, expected, equal_nan=True)


@pytest.mark.parametrize("policy", ["error", "nearest", "pretrained"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_compiled_route_gives_a_row_with_nothing_present_no_number(sharing: str, policy: str) -> None:
    made = router(sharing, ["a", "b", "c"], untrained=policy)
    assert bool(made.dynamic(torch.zeros(1, 3, dtype=torch.bool), {}, False).weights.isnan().all())


def test_the_compiled_table_follows_training() -> None:
    made = router("independent", untrained="nearest")
    made.trained_rows = made.rows(["a"])
    assert made.table(False)[MODALITIES.code("b+c")] == MODALITIES.code("a")
    made.trained_rows = made.rows(["a", "c"])
    assert made.table(False)[MODALITIES.code("b+c")] == MODALITIES.code("c")


def test_independent_trained_is_what_was_trained() -> None:
    assert [str(one) for one in router("independent", ["a", "b+c"]).trained()] == ["a", "b+c"]


def test_additive_trained_includes_combinations_never_drawn() -> None:
    assert [str(one) for one in router("additive", ["a+b", "a+c"]).trained()] == ["a", "a+b", "a+c"]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_error_is_the_default_policy(sharing: str) -> None:
    made = router(sharing, ["a+b"])
    assert served(made, "a+b") == "a+b"
    with pytest.raises(
        UntrainedCombination, match=r"no adapter set was trained for a; trained: a\+b\. .*untrained='nearest'"
    ):
        made.substitute(MODALITIES.code("a"), training=False)
    with pytest.raises(UntrainedCombination, match=r"trained: none\. Train it, or say .*: untrained=.pretrained. in"):
        router(sharing, untrained="nearest").substitute(MODALITIES.code("a"), training=False)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_pretrained_uses_no_set(sharing: str) -> None:
    assert served(router(sharing, ["a+b"], untrained="pretrained"), "a") == "a+b+c"


@pytest.mark.parametrize(
    ("trained", "wanted", "expected"),
    [
        (["a", "a+b"], "a+b", "a+b"),
        (["b", "b+c"], "a+b", "b"),
        (["b+c"], "a+b", "b+c"),
        (["a+b", "c"], "a", "a+b"),
    ],
)
def test_nearest_differs_in_the_fewest_modalities(trained: list[str], wanted: str, expected: str) -> None:
    assert served(router("independent", trained, untrained="nearest"), wanted) == expected


@pytest.mark.parametrize("policy", ["error", "nearest"])
def test_training_uses_a_set_before_it_is_trained(policy: str) -> None:
    made = router("independent", combinations=["a"], untrained=policy)
    assert served(made, "a", training=True) == "a"
    with pytest.raises(UntrainedCombination):
        made.substitute(MODALITIES.code("b"), training=True)


def test_the_complete_combination_needs_no_set() -> None:
    for sharing in SHARINGS:
        assert served(router(sharing), "a+b+c") == "a+b+c"


def test_rows_of_a_combination_without_a_set_are_refused() -> None:
    with pytest.raises(ModalityError, match="combination b has no adapter set; those that have one: a"):
        router("independent", combinations=["a"]).rows(["b"])
    assert router("additive", combinations=["a"]).rows(["b"]) == {0, 2}


@pytest.mark.parametrize(
    ("sharing", "policy", "message"),
    [
        (
            "additiv",
            "error",
            "sharing: expected one of independent, additive, but found 'additiv'. Did you mean 'additive'?",
        ),
        ("additive", "nearst", "untrained: expected one of .* Did you mean 'nearest'?"),
    ],
)
def test_refuses_unknown_choices(sharing: str, policy: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Router(MODALITIES, MODALITIES.incomplete(), sharing, policy)


@given(
    axis=st.integers(0, 2),
    feature=st.integers(0, 2),
    folds=st.integers(1, 3),
    rows=st.integers(1, 3),
    inner=st.booleans(),
)
def test_values_are_put_where_their_rows_are(axis: int, feature: int, folds: int, rows: int, inner: bool) -> None:
    if axis == feature:
        return
    shape = [4, 4, 4]
    shape[axis], shape[feature] = folds * rows, 5
    values = torch.arange(rows * 5.0).view(rows, 5)
    placed = Placement(axis, inner).spread(values, torch.empty(shape), feature, 1).expand(shape)
    for index in range(folds * rows):
        row = index % rows if inner else index // folds
        found = placed.select(axis, index).movedim(feature - (axis < feature), -1)
        assert torch.equal(found, values[row].expand_as(found))


def test_features_of_several_axes_keep_their_order() -> None:
    values = torch.randn(3, 4, 5)
    placed = Placement(1).spread(values, torch.empty(2, 3, 4, 5), -2, 2)
    assert torch.equal(placed, values[None])


def test_refuses_an_output_without_a_place_for_the_rows() -> None:
    with pytest.raises(InputError, match=r"a layer's output \(7, 4\) has no place for 3 rows on axis 0"):
        Placement(0).spread(torch.zeros(3, 4), torch.empty(7, 4), 1, 1)


def test_refuses_a_site_called_more_often_than_when_it_was_located() -> None:
    route = Route(Choice(torch.ones(2, 1)), False, {"site": [Placement(0)]})
    route.visit("site")
    with pytest.raises(
        InputError, match="site site was called 2 times in one forward, but 1 times when the rows were located"
    ):
        route.visit("site")
