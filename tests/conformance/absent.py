"""Run every layer on absent input and write the table into docs/absent-input.md: `make absent-input`."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from conformance.absent_cases import LIBRARIES, is_there
from conformance.absent_survey import KINDS, Found, survey

DOCUMENT = Path(__file__).parents[2] / "docs" / "absent-input.md"
BEGIN, END = "<!-- written by `make absent-input` -->\n", "<!-- until here -->\n"

Table = Mapping[str, Mapping[str, Mapping[str, Found]]]
"""Library -> layer -> kind of input -> what was found."""


def main(target: Path) -> None:
    """Write the table; stop with an error where a library is not there, or something odd is met with nothing."""
    torch.set_num_threads(1)
    if lacking := [library for library in LIBRARIES if not is_there(library)]:
        sys.exit(f"not installed: {', '.join(lacking)}; the table needs all of {', '.join(LIBRARIES)}")
    found = {library: {name: _survey(name, library) for name in cases} for library, cases in LIBRARIES.items()}
    text = target.read_text("utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    target.write_text(head + BEGIN + "\n".join(lines(found)) + "\n" + END + tail, "utf-8")
    silent = [name for cases in found.values() for name, kinds in cases.items() if any(map(_is_silent, kinds.values()))]
    sys.exit(f"nothing is done about what is odd, or goes wrong: {', '.join(silent)}" if silent else 0)


def lines(found: Table) -> Iterator[str]:
    """Give the tables' lines."""
    versions = ", ".join(f"{library} {version(library)}" for library in found)
    yield f"\n{versions}, Python {platform.python_version()}, CPU, one thread."
    for library, cases in found.items():
        yield f"\n| {library} | {' | '.join(KINDS)} |"
        yield f"|{'---|' * (len(KINDS) + 1)}"
        for name, kinds in cases.items():
            yield f"| {name} | {' | '.join(map(str, kinds.values()))} |"
    yield ""


def read_table(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """Read library -> layer -> kind of input -> cell from a written page."""
    table: dict[str, dict[str, dict[str, str]]] = {}
    for line in text.split(BEGIN)[1].split(END)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != len(KINDS) + 1 or not cells[1].strip("-"):
            continue
        if tuple(cells[1:]) == KINDS:
            rows = table.setdefault(cells[0], {})
        else:
            rows[cells[0]] = dict(zip(KINDS, cells[1:], strict=True))
    return table


def rough(cell: str) -> str:
    """Leave out of a cell what machines round otherwise."""
    return re.sub(r"\d(\.\d+)?e[+-]\d+", "x", cell)


def _survey(name: str, library: str) -> Mapping[str, Found]:
    print(f"{library}: {name}", file=sys.stderr)
    return survey(LIBRARIES[library][name])


def _is_silent(found: Found) -> bool:
    return found.is_silent


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENT)
