"""Results, and examples where there are some, as one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from subsense.evaluation import wording
from subsense.evaluation.reporting.examples import Examples
from subsense.evaluation.results import COLUMNS, Results, Row
from subsense.evaluation.wording import show_share
from subsense.support.tables import format_share

TEMPLATES = Path(__file__).parent / "templates"


def page(results: Results, examples: Examples | None = None) -> str:
    """Write the page: table as a sortable heat map, recovery, parameter counts, examples with a switch per modality.

    Style, script and pictures are inside; its content policy forbids the browser to load anything. Names are escaped.
    """
    table = _Table(results)
    summary = results.summary
    return template("page.html.j2").render(
        results=results,
        columns=[(column, results.heading(column)) for column in results.columns],
        rows=[table.line(row) for row in results.rows],
        summary=table.line(summary) if summary else None,
        footers=results.footers(),
        marked=[(column, text) for column, text in COLUMNS.items() if column in results.columns],
        shows_recovery=results.shows_recovery,
        ticks=table.ticks(),
        tiles=_tiles(results),
        modalities=list(results.modalities),
        examples=_plain(examples) if examples else None,
        has_intervals=any(row.intervals for row in results.rows),
        reliability=wording.reliability(results),
    )


@dataclass(frozen=True)
class Cell:
    """Hold one value: its text, its number for sorting, its strength from 0 (worst) to 1 (best) in the heat map.

    And its bootstrap interval, as text.
    """

    column: str
    text: str
    number: float | None
    heat: float | None
    interval: str


@dataclass(frozen=True)
class Line:
    """Hold one row of the page: its cells, and the places in percent of the width at which its marks stand."""

    combination: str
    count: int
    cells: list[Cell]
    recovery: str
    recovery_number: float | None
    marks: dict[str, float]
    is_loss: bool

    @property
    def bar(self) -> tuple[float, float] | None:
        """Give where the bar from pretrained to adapted begins and how long it is, in percent."""
        if not {"pretrained", "adapted"} <= self.marks.keys():
            return None
        start, end = sorted((self.marks["pretrained"], self.marks["adapted"]))
        return start, round(end - start, 3)


class _Table:
    """Put values on the two scales of the page: colour, and position."""

    def __init__(self, results: Results) -> None:
        self.results = results
        values = [row.value(column) for row in results.measured for column in results.columns]
        finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
        self.low, self.high = min(finite), max(finite)

    def line(self, row: Row) -> Line:
        values = {column: row.value(column) for column in self.results.columns}
        recovery = self.results.recovery(row)
        gain = (_finite(row.adapted) or 0) - (_finite(row.pretrained) or 0)
        return Line(
            combination=row.combination,
            count=row.count,
            cells=[self._cell(row, column, value) for column, value in values.items()],
            recovery=show_share(recovery),
            recovery_number=_finite(recovery),
            marks={column: self._place(value) for column, value in values.items()
                   if column in COLUMNS and value is not None and math.isfinite(value)},
            is_loss=(gain < 0) == self.results.higher_is_better and gain != 0,
        )  # fmt: skip

    def _cell(self, row: Row, column: str, value: float | None) -> Cell:
        text, interval = self.results.cell(row, column), self._interval(row, column)
        return Cell(column, text, _finite(value), self._heat(value), interval)

    def _interval(self, row: Row, column: str) -> str:
        """Write a bootstrap interval; nothing where there is none."""
        return "–".join(wording.show(self.results, end) for end in row.intervals.get(column, ()))

    def ticks(self) -> list[tuple[float, str]]:
        """Give round values along the scale: place in percent, text."""
        step = _round_step(self.high - self.low)
        first = math.ceil(self.low / step)
        values = [index * step for index in range(first, math.floor(self.high / step) + 1)]
        digits = max(0, -math.floor(math.log10(step) + 1e-9) - (2 if self.results.unit == "fraction" else 0))
        scale = 100 if self.results.unit == "fraction" else 1
        return [(self._place(value), f"{scale * value:.{digits}f}") for value in values]

    def _heat(self, value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        share = self._share(value)
        return round(share if self.results.higher_is_better else 1 - share, 3)

    def _place(self, value: float) -> float:
        """Give a place in percent, with a margin at both ends."""
        return round(2 + 96 * self._share(value), 3)

    def _share(self, value: float) -> float:
        return (value - self.low) / ((self.high - self.low) or 1.0)


def _round_step(span: float) -> float:
    """Give a step of 1, 2 or 5 times a power of ten, which fits four to nine times into the span."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= span / 4 + 1e-12)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _tiles(results: Results) -> list[tuple[str, str, str]]:
    """Give number, name and remark of the parameter counts."""
    network, adapter, num_sets = results.network, results.adapter, 2 ** len(results.modalities) - 2
    tiles = [(f"{network.num_parameters:,}", "network", "frozen, shared by all combinations")]
    if adapter:
        total = f"{adapter.num_rows} rows serve {num_sets} incomplete combinations"
        tiles.append(
            (f"{adapter.num_per_row:,}", "one bank row", _share_of(network.num_parameters, adapter.num_per_row))
        )
        tiles.append((f"{adapter.num_total:,}", "all adapters", total))
    for name, compared in results.compared.items():
        share = _share_of(network.num_parameters, compared.num_per_row)
        tiles.append((f"{compared.num_per_row:,}", name, f"one bank row, {share}" if share else "one bank row"))
    instead = (f"{network.num_parameters * num_sets:,}", "instead", f"{num_sets} dedicated networks would take this")
    return [*tiles, instead]


def _share_of(total: int, part: int) -> str:
    return f"{format_share(part / total)} of the network" if total else ""


def _plain(examples: Examples) -> dict[str, object]:
    plain: dict[str, object] = json.loads(examples.model_dump_json())
    return plain


@cache
def template(name: str) -> Template:
    """Give one of the templates, with every value escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
