"""Results as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv as csv_writer
import io
import re
from collections.abc import Sequence

from subsense.evaluation import wording
from subsense.evaluation.results import COLUMNS, Results, Row
from subsense.evaluation.wording import ABSENT

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "\n": " ",
}


def markdown(results: Results) -> str:
    """Write the table in GitHub's Markdown, with the facts below it."""
    header, rows = results.table()
    rule = ["---", *["---:"] * (len(header) - 1)]
    table = [_pipes([_markdown_text(cell) for cell in cells]) for cells in (header, rule, *rows)]
    title = [f"## {_markdown_text(results.title)}", ""] if results.title else []
    facts = [f"- {name}: {_markdown_text(text)}" for name, text in results.facts.items()]
    if found := wording.reliability(results):
        rule = ["---", *["---:"] * (len(found[0]) - 1)]
        table += ["", *(_pipes([_markdown_text(cell) for cell in cells]) for cells in (found[0], rule, *found[1]))]
    return "\n".join([*title, *table, "", *facts]) + "\n"


def csv(results: Results) -> str:
    """Write one line for each combination, values as measured (fractions, not percent), nothing where there is none.

    Compared methods follow the recovery; their parameters, which are no measured values, are left to the other forms.
    """
    buffer = io.StringIO()
    writer = csv_writer.writer(buffer, lineterminator="\n")
    writer.writerow(["combination", "count", *COLUMNS, "recovery", *results.compared])
    writer.writerows(_csv_row(results, row) for row in results.rows)
    return buffer.getvalue()


def latex(results: Results) -> str:
    """Write a table for the booktabs package, the best value of every row in bold; the facts stand in a comment."""
    header, rows = results.table()
    best: list[list[int]] = [_best(results, row) for row in results.measured]
    best += [[]] * (len(rows) - len(best))
    body = [_latex_row(cells, bold) for cells, bold in zip(rows, best, strict=True)]
    body[len(results.rows) : len(results.rows)] = [r"\midrule"] if len(rows) > len(results.rows) else []
    facts = [f"% {name}: {' '.join(text.split())}" for name, text in results.facts.items()]
    opening = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", _latex_row(header, []), r"\midrule"]
    return "\n".join([*facts, *opening, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", text).replace("\n", " ")


def _csv_row(results: Results, row: Row) -> list[str]:
    values = [*map(row.value, COLUMNS), results.recovery(row), *map(row.value, results.compared)]
    return [row.combination, str(row.count), *("" if value is None else f"{value:.7g}" for value in values)]


def _best(results: Results, row: Row) -> list[int]:
    """Give the positions, in the table, of a row's best values, where there is something to compare."""
    first = 1 if results.common_count is not None else 2
    values = {index: row.value(column) for index, column in enumerate(results.columns, first)}
    measured = {index: value for index, value in values.items() if value is not None and value == value}
    if len(measured) < 2:
        return []
    best = (max if results.higher_is_better else min)(measured.values())
    return [index for index, value in measured.items() if value == best]


def _latex_row(cells: Sequence[str], bold: Sequence[int]) -> str:
    texts = ["".join(_LATEX.get(character, character) for character in cell) for cell in cells]
    marked = [rf"\textbf{{{text}}}" if index in bold and text != ABSENT else text for index, text in enumerate(texts)]
    return " & ".join(marked) + r" \\"
