"""Survey every foreign network and write docs/compatibility.md: `make compatibility`."""

from __future__ import annotations

import platform
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from conformance.foreign_language_models import LANGUAGE_MODELS, WITH_TIMM
from conformance.foreign_timm import INSTALLED, TIMM
from conformance.foreign_torch import TORCH
from conformance.foreign_transformers import TRANSFORMERS
from conformance.survey import CHECKS, REFUSED, RIGHT, Case, Row, survey

IMAGES = "timm, segmentation-models-pytorch and open_clip"
SOURCES: Mapping[str, Mapping[str, Case]] = {
    "transformers": TRANSFORMERS,
    "language models of transformers": LANGUAGE_MODELS,
    "torch": TORCH,
    IMAGES: TIMM | WITH_TIMM,
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
OPENING = """# Compatibility: networks that nobody here wrote

Each network below is made with random weights and toy sizes, adapted by one `subsense.adapt` call, and checked.
`make compatibility` writes this page; `make conformance` runs the same survey as tests.
{versions}. Method {method}, additive sharing, {rows} rows.

- **reached** is the share of the network's parameters at whose layer an adapter acts. What is **out of reach**
  (embeddings, recurrent weights, bare parameters, classes that nobody declared) is listed here by class, and by
  `print(subsense.plan(network))` name by name.
- **plan**: every parameter is reached, or named as out of reach.
- **identity**: with nothing missing the network's own bits, and untrained sets change nothing.
- **gradient**: every adapter is called and given a gradient. *n idle*: n adapter parameters get none because nothing
  that the network gives depends on their layer; its own weight would get none either, which is checked. The report of
  `train` names them.
- **eval = train**: the same bits in both modes.
- **rows**: a batch whose rows lack different things equals row by row, to 1e-5 of the greatest output (bfloat16: 0.05).
- **fold**: the folded network gives the same, within the same bounds.
- **save, load**: the same bits. **detach**: no trace, the same bits.
- Language models are called by `subsense.integrations.transformers.LanguageModelCall` with `fill="omit"`: what is
  missing isn't passed, and its tokens leave the prompt. Their rows are compared at the last three tokens, to 1e-4.
- ✓ holds; **refused**: a `SubsenseError`, whose words stand below the tables; anything else is a fault, and is shown as
  **wrong**.
"""
COLUMNS = ("network", "class", "parameters", "sites", "reached", "out of reach", *CHECKS, "note")


def main(target: Path) -> None:
    """Write the page; stop with an error where a promise is broken that nobody expected.

    What needs libraries that aren't installed here stays as the page has it.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    old = target.read_text("utf-8") if target.exists() else ""
    rows = {
        source: {name: _survey(name, case) for name, case in cases.items()}
        for source, cases in SOURCES.items()
        if source != IMAGES or INSTALLED
    }
    target.write_text("\n".join(page(rows, old)), "utf-8")
    wrong = [name for found in rows.values() for name, row in found.items() if row.wrong]
    sys.exit(f"promises are broken: {', '.join(wrong)}" if wrong else 0)


def page(rows: Mapping[str, Mapping[str, Row]], old: str) -> Iterator[str]:
    """Give the page's lines; what wasn't surveyed now is taken from the old page."""
    versions = f"subsense {version('subsense')}, torch {torch.__version__}, transformers {version('transformers')}"
    where = f"{versions}, Python {platform.python_version()}, CPU"
    method = " + ".join(next(iter(TORCH.values())).method)
    yield OPENING.format(versions=where, method=method, rows=_num_rows())
    tables = {
        source: list(_table(SOURCES[source], rows[source])) if source in rows else _old_table(source, old)
        for source in SOURCES
    }
    lines = [line for table in tables.values() for line in table[2:]]
    wrong = sum("**wrong**" in line for line in lines)
    refused = sum("**refused**" in line and "**wrong**" not in line for line in lines)
    right = len(lines) - wrong - refused
    yield f"{len(lines)} cases: {right} right in every check, {refused} refused in at least one, {wrong} wrong.\n"
    for source, table in tables.items():
        yield f"## {source}\n"
        if source == IMAGES:
            yield _IMAGES
        yield from table
        yield ""
    yield "## What the refused are told\n"
    for source in SOURCES:
        if source in rows:
            found = rows[source].items()
            yield from (f"- **{name}** ({source}): {_plain(row.error)}" for name, row in found if row.error)
        else:
            yield from (line for line in old.splitlines() if line.startswith("- **") and f"** ({source}): " in line)
    yield from _not_there()


_IMAGES = """timm 1.0.31, segmentation-models-pytorch 0.6.0, open_clip 3.3.0: the smallest network of each family, for a
colour picture and a depth map; nothing is declared. Compared to 1e-4. The three import torchvision, whose own
operators can't be loaded beside this torch: the survey ran without them, and no network here calls one. Gemma 3n, whose
tower for pictures is timm's, is a language model called as those above.
"""


def _old_table(source: str, old: str) -> list[str]:
    section = old.partition(f"## {source}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


def table_names(text: str) -> list[str]:
    """Give the names in the tables of a written page."""
    rows = re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)
    return [name for name in rows if name != COLUMNS[0] and not set(name) <= {"-", ":"}]


def _survey(name: str, case: Case) -> Row:
    print(name, file=sys.stderr)
    try:
        return survey(case)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _table(cases: Mapping[str, Case], found: Mapping[str, Row]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'|'.join(['---'] * len(COLUMNS))}|"
    for name, row in found.items():
        yield f"| {' | '.join(_cells(name, cases[name], row))} |"


def _cells(name: str, case: Case, row: Row) -> list[str]:
    lost = ", ".join(f"{kind} {count:,}" for kind, count in row.out_of_reach.items()) or "–"
    checks = [_cell(check, found, row) for check, found in row.checks.items()]
    sites, reached = ("–", "–") if row.reached is None else (str(row.sites), f"{row.reached:.0%}")
    lost = "–" if row.reached is None else lost
    return [name, f"`{row.network}`", f"{row.parameters:,}", sites, reached, lost, *checks, case.note]


def _cell(check: str, found: str, row: Row) -> str:
    if found == REFUSED or (row.reached is None and check == next(iter(CHECKS))):
        return "**refused**"
    if found == RIGHT and check == "gradient" and row.without_effect:
        return f"{RIGHT} ({len(row.without_effect)} idle)"
    return found if len(found) == 1 else f"**wrong**: {_plain(found)}"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _num_rows() -> int:
    from architectures import ROWS

    return ROWS


def _not_there() -> Iterator[str]:
    yield "\n## Not in the table\n"
    yield (
        f"transformers {version('transformers')} has neither ImageBind nor TVLT. "
        "Networks on a GPU and networks split "
        "over several devices were not tried. Weights in 8 and 4 bits: see [large networks](large-networks.md)."
    )
    yield ""


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENT)
