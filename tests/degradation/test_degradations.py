"""Every degradation: what it is at each severity, against what its page promises."""

import doctest
import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor

from subsense.degradation import DEGRADATIONS, Degradation, composed, find, quality_of, severity_of
from subsense.degradation.kinds import share_of
from subsense.degradation.words import NO_WORD
from subsense.errors import InputError

REPOSITORY = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("kind", DEGRADATIONS.values(), ids=str)
SHAPES = {"channels": (600, 20, 10), "time": (600, 40, 5), "space": (40, 2, 80, 100), "words": (600, 20)}
LEFT_OUT = ("lag", "blur", "fog")
"""Not a share of the values, and no error of a known size."""


def healthy(kind: Degradation, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind.form == "words":
        return torch.randint(1, 1000, SHAPES["words"], generator=generator)
    values = torch.randn(SHAPES[kind.form], generator=generator)
    return values.cumsum(1) if kind.name == "lag" else values  # what is late by one step is all wrong in white noise


def changed(kind: Degradation, values: Tensor, severity: float, seed: int = 0) -> Tensor:
    severities = torch.full((len(values),), severity)
    return kind.change(values, kind.amount(severities), torch.Generator().manual_seed(seed))


@EACH
def test_nothing_happens_at_severity_0_and_more_at_each_further_one(kind: Degradation) -> None:
    values = healthy(kind)
    assert torch.allclose(changed(kind, values, 0.0).double(), values.double(), atol=1e-4)
    errors = [float(((changed(kind, values, s) - values).double() ** 2).mean()) for s in (0.5, 1, 2, 3, 4, 5)]
    assert errors == sorted(errors)
    assert len(set(errors)) == len(errors)


@EACH
def test_the_same_seed_gives_the_same_and_every_row_is_its_own(kind: Degradation) -> None:
    values = healthy(kind)
    assert torch.equal(changed(kind, values, 3), changed(kind, values, 3))
    severities = torch.tensor([0.0, 5.0] * (len(values) // 2))
    mixed = kind.change(values, kind.amount(severities), torch.Generator().manual_seed(0))
    assert torch.allclose(mixed[::2].double(), values[::2].double(), atol=1e-4)
    assert not torch.allclose(mixed[1::2].double(), values[1::2].double(), atol=1e-1)


@EACH
def test_values_are_not_changed_in_place(kind: Degradation) -> None:
    values = healthy(kind)
    before = values.clone()
    changed(kind, values, 4)
    assert torch.equal(values, before)


@pytest.mark.parametrize("kind", [one for one in DEGRADATIONS.values() if one.name not in LEFT_OUT], ids=str)
@pytest.mark.parametrize("severity", [1, 2, 3, 4])
def test_at_severity_s_s_fifths_of_what_a_healthy_input_tells_are_lost(kind: Degradation, severity: int) -> None:
    """An error of a deviations leaves 1 / (1 + a^2) of the variance; what is taken away is a share of the values."""
    values = healthy(kind)
    worse = changed(kind, values, severity)
    difference = (worse - values).double()
    if kind.name in ("noise", "bias", "drift"):
        error = float((difference**2).mean())
        lost = error / (1 + error)
    elif kind.name == "gain":
        up = worse.double().flatten(1).std(1) > values.double().flatten(1).std(1)
        error = float((difference[up] ** 2).mean() / (values[up].double() ** 2).mean())
        lost = error / (1 + error)
    elif kind.name in ("saturation", "quantisation"):
        lost = float((difference**2).mean())
    else:
        lost = float((difference != 0).double().mean())
    assert lost == pytest.approx(severity / 5, abs=0.035)


@EACH
def test_it_has_a_doctest_a_line_and_a_picture_in_the_docs(kind: Degradation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)
    from benchmarks.degradation_pictures import PICTURES

    page = (REPOSITORY / "docs" / "degraded-input.md").read_text("utf-8")
    shown = [file for file, kinds in PICTURES.items() if kind in kinds]
    assert shown
    assert f"| `{kind.name}` |" in page
    for file in shown:
        assert f"(degradations/{file}.png)" in page
        assert (REPOSITORY / "docs" / "degradations" / f"{file}.png").is_file()
    module = inspect.getmodule(kind.change)
    tests = doctest.DocTestFinder(recurse=False).find(kind.change, module=module)
    assert any(one.examples for one in tests), f"{kind}: no doctest"


def test_amounts_lie_on_lines_between_the_severities() -> None:
    amounts = find("saturation").amount(torch.tensor([0.0, 0.5, 1.5, 5.0]))
    assert amounts.tolist() == pytest.approx([8.0, (8 + 0.87) / 2, (0.87 + 0.52) / 2, 0.03])


def test_blur_is_a_gaussian() -> None:
    from scipy.ndimage import gaussian_filter

    picture = torch.randn(1, 1, 41, 41, generator=torch.Generator().manual_seed(0))
    picture[..., :12, :], picture[..., -12:, :], picture[..., :12], picture[..., -12:] = 0, 0, 0, 0
    ours = find("blur").change(picture, torch.tensor([1.5 / 41]), torch.Generator())[0, 0, 8:-8, 8:-8]
    theirs = torch.tensor(gaussian_filter(picture[0, 0].double().numpy(), 1.5, truncate=8))[8:-8, 8:-8]
    assert torch.allclose(ours.double(), theirs, atol=1e-5)


def test_what_is_no_word_is_never_touched() -> None:
    words = torch.full((50, 8), NO_WORD)
    words[:, 2:5] = 7
    for name in ("wrong-words", "lost-words", "cut-text"):
        worse = changed(find(name), words, 5)
        assert torch.equal(worse == NO_WORD, words == NO_WORD)
        assert not bool((worse == 7).any())


def test_a_share_is_met_on_the_mean_where_places_are_few() -> None:
    hit = share_of(torch.Generator().manual_seed(0), torch.full((20_000,), 0.4), 3)
    assert float(hit.double().mean()) == pytest.approx(0.4, abs=0.01)
    assert sorted(hit.sum(1).unique().tolist()) == [1, 2]


def test_what_was_dropped_is_the_sample_before() -> None:
    times = torch.arange(40.0).view(1, 40, 1).expand(50, -1, -1)
    held = changed(find("dropped"), times, 3)
    before = torch.cat([held[:, :1], held[:, :-1]], dim=1)
    assert bool(((held == times) | (held == before)).all())


def test_composed_kinds_act_in_turn() -> None:
    both = composed([find("saturation"), find("bias")])
    values = healthy(both)
    generator = torch.Generator().manual_seed(0)
    severity = torch.full((len(values),), 2.0)
    one = find("saturation").change(values, find("saturation").amount(severity), generator)
    two = find("bias").change(one, find("bias").amount(severity), generator)
    assert torch.equal(changed(both, values, 2.0), two)
    with pytest.raises(InputError, match=r"one form, but found \['channels', 'space'\]"):
        composed([find("noise"), find("blur")])


def test_an_unknown_kind_is_named_with_the_near_miss() -> None:
    with pytest.raises(InputError, match=r"unknown degradation 'nose'.*Did you mean 'noise'"):
        find("nose")


def test_quality_and_severity_are_each_others_inverse() -> None:
    quality = torch.tensor([0.0, 0.3, 1.0])
    assert torch.allclose(quality_of(severity_of(quality)), quality)
