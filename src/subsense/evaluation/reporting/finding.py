"""Findings of experiments as Markdown and as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from subsense.evaluation.finding import Chart, Finding, Mark, Series
from subsense.evaluation.reporting.figure import to_png

# Okabe and Ito's palette, as in the tables' pictures.
_LOOKS: dict[str, dict[str, Any]] = {
    "pretrained": {"color": "#8a8f98", "marker": "o"},
    "adapted": {"color": "#0072B2", "marker": "o"},
    "dedicated": {"color": "#111111", "marker": "s"},
    "fine_tuned": {"color": "#E69F00", "marker": "D"},
    "other": {"color": "#D55E00", "marker": "^"},
    "second": {"color": "#009E73", "marker": "v"},
    "third": {"color": "#CC79A7", "marker": "P"},
}
_GREY = "#444444"
_MOST_MARKERS = 20


def write_finding(finding: Finding, path: str | os.PathLike[str]) -> list[Path]:
    """Write a finding as JSON, Markdown and PNG beside each other, whatever the ending of `path`. Return the paths."""
    target = Path(path)
    files = [finding.save(target.with_suffix(".json")), target.with_suffix(".md"), target.with_suffix(".png")]
    files[1].write_text(markdown(finding, files[2].name), "utf-8")
    files[2].write_bytes(png(finding))
    return files


def markdown(finding: Finding, picture: str) -> str:
    """Write a finding in GitHub's Markdown; `picture` is the name of its PNG."""
    rule = ["---", *["---:"] * (len(finding.header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (finding.header, rule, *finding.rows)]
    facts = [f"- {name}: {text}" for name, text in finding.facts.items()]
    says = [*finding.says, ""] if finding.says else []
    return (
        "\n".join([f"## {finding.title}", "", f"![{finding.title}]({picture})", "", *says, *lines, "", *facts]) + "\n"
    )


def png(finding: Finding, dpi: int = 120) -> bytes:
    """Draw a finding's charts side by side."""
    return to_png(draw(finding), dpi)


def draw(finding: Finding) -> Figure:
    """Draw the charts with one scale for y. Nothing global is touched: no pyplot, no settings."""
    count = max(1, len(finding.charts))
    names = [name for chart in finding.charts[:1] for name in _names(chart)]
    width = max(3.2 + 3.8 * count, 0.75 * len(names) + 0.1 * sum(map(len, names)))
    figure = Figure(figsize=(width, 4.4))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for number, (axes, chart) in enumerate(zip(panels, finding.charts, strict=False)):
        _draw_chart(axes, chart, is_first=number == 0)
    if finding.charts:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9.5)
    figure.suptitle(_plain(finding.title), fontsize=12, fontweight="bold")
    return figure


def _names(chart: Chart) -> list[str]:
    return [*(series.name for series in chart.series), *(level.name for level in chart.levels)]


def _draw_chart(axes: Axes, chart: Chart, is_first: bool) -> None:
    for number, series in enumerate(chart.series):
        if chart.kind == "bars":
            _draw_bars(axes, series, number, len(chart.series))
        else:
            _draw_series(axes, series)
    for level in chart.levels:
        colour = _LOOKS[level.look]["color"]
        axes.axhline(level.y, label=level.name, color=colour, linestyle="--", linewidth=1.4, zorder=2)
    for mark in chart.marks:
        _draw_mark(axes, mark)
    _scale(axes, chart)
    axes.set_title(_plain(chart.title), fontsize=10, color=_GREY)
    axes.set_xlabel(_plain(chart.x_label), fontsize=9.5, color=_GREY)
    axes.set_ylabel(_plain(chart.y_label) if is_first else "", fontsize=9.5, color=_GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.margins(x=0.08, y=0.1)


def _draw_mark(axes: Axes, mark: Mark) -> None:
    """Circle a point, and say why in the lower right corner, where rising curves leave room."""
    axes.scatter([mark.x], [mark.y], s=170, facecolors="none", edgecolors="#D55E00", linewidths=1.8, zorder=6)
    axes.annotate(_plain(mark.text), (mark.x, mark.y), xytext=(0.98, 0.06), textcoords="axes fraction", fontsize=9,
                  color="#B04A00", ha="right", arrowprops={"arrowstyle": "-", "color": "#D55E00"})  # fmt: skip


def _draw_series(axes: Axes, series: Series) -> None:
    look = dict(_LOOKS[series.look])
    if len(series.x) > _MOST_MARKERS:
        look["marker"] = ""
    line = "-" if series.joined else ""
    axes.plot(series.x, series.y, line, label=series.name, linewidth=1.6, markersize=6, zorder=3, **look)
    for x, y, text in zip(series.x, series.y, series.labels, strict=False):
        axes.annotate(_plain(text), (x, y), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8.5,
                      color=look["color"], path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip


def _draw_bars(axes: Axes, series: Series, number: int, count: int) -> None:
    width = 0.84 / count
    places = [x + (number - (count - 1) / 2) * width for x in series.x]
    bars = axes.bar(places, series.y, width * 0.92, label=series.name, color=_LOOKS[series.look]["color"], zorder=3)
    axes.bar_label(bars, labels=list(series.labels) or None, fontsize=8, color=_GREY, padding=2)


def _scale(axes: Axes, chart: Chart) -> None:
    if chart.log_x:
        axes.set_xscale("log")
        places = sorted({x for series in chart.series if series.joined for x in series.x})
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(places, [f"{x:,.0f}" for x in places], rotation=30)
    elif chart.ticks:
        axes.set_xticks(range(len(chart.ticks)), [_plain(text) for text in chart.ticks])


def _plain(text: str) -> str:
    """Keep matplotlib from reading a dollar sign as mathematics."""
    return text.replace("$", r"\$")
