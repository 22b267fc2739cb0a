"""Quality -> weights, against a sum over all combinations in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from networks import SHARINGS
from subsense import Modalities, UntrainedCombination
from subsense.routing.quality import shares_of, weights_of, weights_or_nan
from subsense.routing.router import Router

MODALITIES = Modalities({"a": "2", "b": "2", "c": "2"})
QUALITIES = st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=3).filter(any), min_size=1)


def router_of(sharing: str, untrained: str = "error", trained: str | list[str] = "all") -> Router:
    router = Router(MODALITIES, MODALITIES.incomplete(), sharing, untrained)
    router.trained_rows = router.rows(router.select(trained))
    return router


def expected_shares(quality: list[float]) -> dict[frozenset[str], float]:
    """Give how likely each combination is where each modality is there with its quality, if anything is."""
    found = {}
    for flags in itertools.product([0, 1], repeat=3):
        names = frozenset(name for name, flag in zip(MODALITIES, flags, strict=True) if flag)
        found[names] = float(np.prod([q if flag else 1 - q for q, flag in zip(quality, flags, strict=True)]))
    nothing = found.pop(frozenset())
    return {names: share / (1 - nothing) for names, share in found.items()}


@given(QUALITIES)
def test_independent_rows_are_mixed_by_how_likely_their_combination_is(qualities: list[list[float]]) -> None:
    router = router_of("independent")
    weights = weights_of(router, torch.tensor(qualities, dtype=torch.float64), training=False)
    for row, quality in zip(weights, qualities, strict=True):
        shares = expected_shares(quality)
        expected = [shares[frozenset(one)] for one in router.combinations]
        np.testing.assert_allclose(row, expected, atol=1e-12)


@given(QUALITIES)
def test_additive_rows_count_by_what_is_lost(qualities: list[list[float]]) -> None:
    weights = weights_of(router_of("additive"), torch.tensor(qualities, dtype=torch.float64), training=False)
    np.testing.assert_array_equal(weights, 1 - np.array(qualities))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_whole_numbers_are_what_the_router_gives(sharing: str) -> None:
    router = router_of(sharing)
    for one in MODALITIES.combinations():
        quality = MODALITIES.present(one)[None].float()
        expected = router.uniform(MODALITIES.code(one), torch.device("cpu")).weights
        assert torch.equal(weights_of(router, quality, training=False), expected)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_set_that_was_not_trained_is_refused_by_name_where_it_would_be_mixed_in(sharing: str) -> None:
    router = router_of(sharing, trained=["a+b"])  # the set for a missing c
    fine, bad = torch.tensor([[1.0, 1.0, 0.5]]), torch.tensor([[1.0, 0.5, 1.0]])
    weights_of(router, fine, training=False)
    with pytest.raises(UntrainedCombination, match=r"mixes the sets of combinations, here of a\+c: no adapter set"):
        weights_of(router, bad, training=False)
    found = weights_or_nan(router, torch.cat([fine, bad]), training=False)
    assert found.isnan().all(1).tolist() == [False, True]


def test_policies_serve_what_was_not_trained() -> None:
    quality = torch.tensor([[1.0, 0.5, 1.0]])  # half a+c, half complete
    kept = weights_of(router_of("independent", "pretrained", ["a+b"]), quality, training=False)
    assert not kept.any()
    router = router_of("independent", "nearest", ["a"])
    nearest = weights_of(router, quality, training=False)
    assert nearest[0, router.combinations.index(MODALITIES.combination("a"))] == 0.5
    additive = weights_of(router_of("additive", "nearest", ["a+b"]), quality, training=False)
    assert additive.tolist() == [[0.0, 0.0, 0.5]]  # as where c is missing, the only one that is served


def test_a_policy_that_changes_is_seen() -> None:
    router = router_of("additive", "pretrained", ["a+b"])
    quality = torch.tensor([[1.0, 0.5, 1.0]])
    assert not weights_of(router, quality, training=False).any()
    router.trained_rows = frozenset(range(3))
    assert weights_of(router, quality, training=False).tolist() == [[0.0, 0.5, 0.0]]


def test_shares_are_numbered_by_bit_mask() -> None:
    shares = shares_of(torch.tensor([[1.0, 0.0, 0.5]]))[0]
    assert {code: share for code, share in enumerate(shares.tolist()) if share} == {0b001: 0.5, 0b101: 0.5}
