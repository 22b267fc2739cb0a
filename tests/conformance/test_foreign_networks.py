"""Every network of the published table keeps every promise, or is refused with the words that are expected."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import subsense as ss
from conformance.compatibility import DOCUMENT, SOURCES, table_names
from conformance.survey import CHECKS, RIGHT, Case, Survey, survey

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch's and transformers' own, while networks are made
]


def _cases() -> Iterator[Any]:
    for source, cases in SOURCES.items():
        for name, case in cases.items():
            yield pytest.param(case, id=f"{source}: {name}", marks=[] if case.fast else [pytest.mark.slow])


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Some cases join a group of processes of their own."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("case", list(_cases()))
def test_a_foreign_network_is_right_or_refused(case: Case) -> None:
    row = survey(case)
    assert not row.wrong
    if case.refused:
        assert re.search(case.refused, row.error), row.error
    else:
        assert not row.error
        assert dict(row.checks) == dict.fromkeys(CHECKS, RIGHT)


def test_recurrent_layers_are_named_as_out_of_reach() -> None:
    planned = Survey(SOURCES["torch"]["nn.LSTM"]).robust.plan
    lost = {name for name in planned.out_of_reach if name.startswith("recurrent.")}
    assert lost == {f"recurrent.{name}" for name, _ in torch.nn.LSTM(6, 6, 2, bidirectional=True).named_parameters()}
    assert "recurrent.weight_hh_l1_reverse" in str(planned)


def test_a_network_without_values_can_be_planned() -> None:
    case = SOURCES["torch"]["meta device"]
    assert len(ss.plan(case.architecture.network()).sites) == 2


def test_the_published_table_has_every_case() -> None:
    assert table_names(DOCUMENT.read_text("utf-8")) == [name for cases in SOURCES.values() for name in cases]
