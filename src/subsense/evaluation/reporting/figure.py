"""Results as a picture: the table as a heat map, and beside it how far the adapters bring each combination."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from subsense.evaluation.results import Results, Row
from subsense.evaluation.wording import show_share

# Okabe and Ito's palette, which people with any colour vision can tell apart.
PRETRAINED, ADAPTED, LOST, DEDICATED, FINE_TUNED = "#8a8f98", "#0072B2", "#D55E00", "#111111", "#E69F00"
_COMPARED = ("#56B4E9", "#009E73", "#CC79A7", "#A6761D", "#D55E00", "#0072B2")
_SHAPES = ("<", ">", "s", "P", "^", "o", "v", "X")
_BLUES = LinearSegmentedColormap.from_list("blues", ["#f1f5f9", "#a6c8e4", "#3f8fc6", "#0b4f8a"])
_MARKS: dict[str, dict[str, Any]] = {
    "pretrained": {"color": PRETRAINED, "marker": "o", "s": 42, "zorder": 3},
    "adapted": {"color": ADAPTED, "marker": "o", "s": 62, "zorder": 4},
    "dedicated": {"color": DEDICATED, "marker": "|", "s": 170, "linewidths": 2.2, "zorder": 5},
    "fine_tuned": {"color": FINE_TUNED, "marker": "D", "s": 32, "edgecolors": "white", "linewidths": 0.6, "zorder": 3},
}


def png(results: Results, dpi: int = 160) -> bytes:
    """Draw the figure as a PNG."""
    return to_png(draw(results), dpi)


def to_png(figure: Figure, dpi: int) -> bytes:
    """Give a figure as a PNG, without a global setting."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": "subsense"})
    return buffer.getvalue()


def draw(results: Results) -> Figure:
    """Draw heat map and recovery side by side, one row for each combination, the mean below.

    Nothing global is touched: no pyplot, no settings.
    """
    rows = list(results.measured)
    label = max(len(row.combination) for row in rows)
    cells = 0.85 * sum(max(1.0, len(results.heading(column)) / 11) for column in results.columns)
    height = 1.9 + 0.3 * len(rows) + 0.2 * (len(results.columns) // 5)
    figure = Figure(figsize=(5.6 + cells + 0.07 * label, height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    table, gains = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [cells, 4.4]})
    _draw_table(table, results, rows)
    _draw_gains(gains, results, rows)
    if results.title:
        figure.suptitle(_plain(results.title), fontsize=13, fontweight="bold")
    return figure


def _draw_table(axes: Axes, results: Results, rows: list[Row]) -> None:
    values = [[_number(row.value(column)) for column in results.columns] for row in rows]
    image = axes.imshow(values, cmap=_BLUES if results.higher_is_better else _BLUES.reversed(), aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(results.columns):
            value: Any = row.value(column)  # Any: matplotlib's stubs know no scalar here
            colour = "#555555" if value is None else _ink(*image.cmap(image.norm(value))[:3])
            axes.text(x, y, results.cell(row, column), ha="center", va="center", color=colour, fontsize=9.5)
    axes.set_yticks(range(len(rows)), [_plain(row.combination) for row in rows], fontsize=9.5)
    axes.set_xticks(range(len(results.columns)), [results.heading(column) for column in results.columns], fontsize=9.5)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(_plain(results.measure), fontsize=9, color="#444444")
    _draw_rules(axes, results, len(rows))


def _draw_rules(axes: Axes, results: Results, num_rows: int) -> None:
    """Part the cells by thin white lines, and the mean from the rest by a thick one."""
    for x in range(1, len(results.columns)):
        axes.axvline(x - 0.5, color="white", linewidth=1.5)
    for y in range(1, num_rows):
        axes.axhline(y - 0.5, color="white", linewidth=5 if y == len(results.rows) else 1.0)


def _draw_gains(axes: Axes, results: Results, rows: list[Row]) -> None:
    scale = 100 if results.unit == "fraction" else 1
    for y, row in enumerate(rows):
        axes.axhline(y, color="#e6e8eb", linewidth=1, zorder=0)
        _draw_gain(axes, results, row, y, scale)
    for column in results.columns:
        values = [(row.value(column), y) for y, row in enumerate(rows)]
        points = [(scale * value, y) for value, y in values if value is not None]
        axes.scatter(*zip(*points, strict=True), label=results.heading(column), **_mark(results, column))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.tick_params(axis="x", labelsize=9, color="#999999")
    unit = " in %" if scale == 100 else ""
    axes.set_xlabel(_plain(results.metric) + unit, fontsize=9, color="#444444")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2, ncols=4, frameon=False, fontsize=9,
                handletextpad=0.1, columnspacing=1.0)  # fmt: skip
    axes.margins(x=0.06)
    if results.shows_recovery and any(results.recovery(row) is not None for row in rows):
        _write_right(axes, "recovery", -0.78)


def _mark(results: Results, column: str) -> dict[str, Any]:
    """Give the look of a column's marks: a colour and a shape of its own for each compared method."""
    if column in _MARKS:
        return _MARKS[column]
    number = list(results.compared).index(column)
    return {"color": _COMPARED[number % len(_COMPARED)], "marker": _SHAPES[number % len(_SHAPES)], "s": 44,
            "edgecolors": "white", "linewidths": 0.6, "zorder": 4}  # fmt: skip


def _draw_gain(axes: Axes, results: Results, row: Row, y: int, scale: int) -> None:
    """Draw the way from pretrained to adapted, in another colour where it goes the wrong way, and the recovery."""
    if row.pretrained is None or row.adapted is None:
        return
    gain = (row.adapted - row.pretrained) * (1 if results.higher_is_better else -1)
    ends = [scale * row.pretrained, scale * row.adapted]
    axes.plot(ends, [y, y], color=ADAPTED if gain >= 0 else LOST, linewidth=5, alpha=0.45, solid_capstyle="butt")
    recovery = results.recovery(row)
    if recovery is not None:
        _write_right(axes, show_share(recovery), y)


def _write_right(axes: Axes, text: str, y: float) -> None:
    """Write beside the right edge, at a row."""
    axes.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=9.5, color="#222222",
                  annotation_clip=False)  # fmt: skip


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _ink(red: float, green: float, blue: float) -> str:
    """Choose black or white for text on a colour."""
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def _plain(text: str) -> str:
    """Keep matplotlib from reading a dollar sign as mathematics."""
    return text.replace("$", r"\$")
