"""What the verbs write: results to stdout, progress to stderr, JSON alone on stdout where a machine reads."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from subsense.evaluation.results import Results, Row
from subsense.recipes.progress import ERR, OUT, say

NARROWEST_BAR = 12
WIDEST_BAR = 50
GAP = 3  # between columns: the padding on both sides and the rule


def complain(text: object) -> None:
    """Write what went wrong to stderr."""
    ERR.print(Text.assemble(("Error: ", "bold red"), str(text)), soft_wrap=True)


def say_json(content: Any) -> None:
    """Write one JSON document to stdout."""
    print(json.dumps(content, indent=2))


def say_results(results: Results, to: Console = OUT) -> None:
    """Write the table of results, with a bar for each row where the terminal is wide enough."""
    header, cells = results.table()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left", no_wrap=number > 0)
    taken = sum(max(map(len, column)) + GAP for column in zip(header, *cells, strict=True))
    room = min(to.width - taken, WIDEST_BAR)
    has_bar = results.unit == "fraction" and room >= NARROWEST_BAR
    if has_bar:
        table.columns[0].no_wrap = True
        table.add_column("", width=room, no_wrap=True)
    mean = results.summary
    for row, texts in zip([*results.rows, *([mean] if mean else [])], cells, strict=True):
        if row is mean:
            table.add_section()
        table.add_row(*texts, *([_bar(row, room, to)] if has_bar else []))
    to.print(table)
    say(f"{results.measure}; {max(row.count for row in results.rows)} test samples", "dim", to)


def _bar(row: Row, width: int, to: Console) -> Text:
    """Draw what the frozen network reaches, and in another tone what the adapter set adds."""
    solid, light = ("#", "+") if to.options.ascii_only else ("█", "▒")
    shares = [value if value is not None and isfinite(value) else 0.0 for value in (row.pretrained, row.adapted)]
    kept, reached = (round(width * share) for share in shares)
    return Text.assemble((solid * kept, "cyan"), (light * max(reached - kept, 0), "green"))
