"""What layers do with absent input, and what is done about it, is what docs/absent-input.md says."""

from collections.abc import Iterator
from typing import Any

import pytest

from conformance.absent import DOCUMENT, read_table, rough
from conformance.absent_cases import LIBRARIES, is_there
from conformance.absent_survey import Case, survey

FAST = {"torch": ("LayerNorm", "F.normalize", "masked mean", "sqrt of power", "MultiheadAttention with weights")}


def _cases() -> Iterator[Any]:
    """Give the layers of the libraries that are there; `make absent-input` installs the others."""
    for library in filter(is_there, LIBRARIES):
        for name in LIBRARIES[library]:
            marks = [] if name in FAST.get(library, ()) else [pytest.mark.slow]
            yield pytest.param(library, name, id=f"{library}: {name}", marks=marks)


@pytest.mark.parametrize(("library", "name"), list(_cases()))
@pytest.mark.filterwarnings("ignore")
def test_a_layer_does_what_the_page_says(library: str, name: str) -> None:
    case: Case = LIBRARIES[library][name]
    found = survey(case)
    said = read_table(DOCUMENT.read_text("utf-8"))[library][name]
    assert {kind: rough(str(one)) for kind, one in found.items()} == {kind: rough(one) for kind, one in said.items()}
    assert not [str(one) for one in found.values() if one.is_silent]


def test_the_page_has_every_layer_and_nothing_odd_is_met_with_silence() -> None:
    table = read_table(DOCUMENT.read_text("utf-8"))
    assert {library: list(rows) for library, rows in table.items()} == {
        library: list(cases) for library, cases in LIBRARIES.items()
    }
    assert sum(map(len, table.values())) >= 60
    cells = [cell for rows in table.values() for row in rows.values() for cell in row.values()]
    assert not [cell for cell in cells if "**" in cell or (cell not in ("✓", "–") and ";" not in cell)]
