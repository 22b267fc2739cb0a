"""The figures as Markdown: the rows of the table that says what was to reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]


def markdown(result: Numbers) -> str:
    """Write everything that was measured."""
    parts = [f"{result['versions']}, {result['machine']}, device {result['device']}"]
    for threads, cases in result["threads"].items():
        for case, figures in cases.items():
            parts.append(f"### {case}, {threads} thread{'s' * (threads != '1')}")
            parts += [_figure(name, numbers) for name, numbers in figures.items()]
    for case, figures in result["networks"].items():
        parts.append(f"### {case}, whatever the number of threads")
        parts += [_figure(name, numbers) for name, numbers in figures.items()]
    for name in ("growth", "sizes"):
        if result.get(name):
            parts += [f"### {name}", _rows(result[name])]
    parts += [f"- {line}" for line in result["skipped"]]
    return "\n\n".join(parts) + "\n"


def _figure(name: str, numbers: Numbers) -> str:
    title = f"**{name}**"
    if all(isinstance(one, Mapping) for one in numbers.values()):
        return f"{title}\n\n" + _rows([{"": way} | dict(one) for way, one in numbers.items()])
    return f"{title}\n\n" + _rows([{"": key, "value": value} for key, value in numbers.items()])


def _rows(rows: Sequence[Numbers]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([_text(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join(_line(line) for line in lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
