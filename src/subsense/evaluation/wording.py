"""How results are put into words: their heading facts, the cells of their tables, and the lines that end them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from subsense.support.tables import format_facts, format_share, format_table

if TYPE_CHECKING:
    from subsense.evaluation.results import AdapterFacts, Results, Row

ABSENT = "–"
INTERVALS = (
    "95 % bootstrap over rows, where they are shown; columns share rows, so they differ more surely than it looks"
)
MEANINGS = "ECE and Brier score as they are, and after the temperature (/T); floor: about the ECE of true confidence"


def show_share(value: float | None) -> str:
    """Write a recovery in percent; a dash where there is none."""
    return ABSENT if value is None else f"{value:.0%}"


def _shorten(fingerprint: str) -> str:
    """Keep twelve digits, after the algorithm's name where there is one.

    >>> _shorten("xxh3:0123456789abcdef"), _shorten("0123456789abcdef")
    ('xxh3:0123456789ab', '0123456789ab')
    """
    algorithm, colon, digits = fingerprint.rpartition(":")
    return algorithm + colon + digits[:12]


def measure(results: Results) -> str:
    """Name the metric with its unit and direction, as headings do."""
    unit = " in %" if results.unit == "fraction" else ""
    return f"{results.metric}{unit}, {'more' if results.higher_is_better else 'less'} is better"


def facts(results: Results) -> dict[str, str]:
    """Say in words, by heading, what was measured and how."""
    network = results.network
    adapters = {"adapters": results.adapter, **results.compared}
    fills = dict.fromkeys(adapter.fill for adapter in adapters.values() if adapter)
    unscored = _unscored_in_words(results)
    return {
        "measure": measure(results),
        **({"counting": results.convention} if results.convention else {}),
        "network": f"{network.name}, {network.num_parameters:,} parameters, {_shorten(network.fingerprint)}",
        **{name: _adapter_in_words(results, adapter) for name, adapter in adapters.items() if adapter},
        "missing": f"filled with {' or '.join(fills)}",
        "rows": _rows_in_words(results),
        **({"not scored": unscored} if unscored else {}),
        **({"confidence": MEANINGS} if any(row.reliability for row in results.rows) else {}),
        "seed": "not given" if results.seed is None else str(results.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()) or "not recorded",
    }


def _adapter_in_words(results: Results, adapter: AdapterFacts) -> str:
    total = results.network.num_parameters
    share = f" ({format_share(adapter.num_per_row / total)} of it)" if total else ""
    return (
        f"{adapter.method}, {adapter.sharing} sharing: {adapter.num_rows} rows of "
        f"{adapter.num_per_row:,} parameters{share}, {adapter.num_total:,} in all"
    )


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Give header and cells as texts: combination, the columns that hold values, recovery in percent.

    The number of rows measured stands in a second column where it differs between combinations, and in `facts`
    where it does not. After the `rows` comes the `summary`, where there is one. A comparison ends with the recovery
    of the summary and the parameters of each method.
    """
    rows = results.measured
    columns = {"combination": [row.combination for row in rows]}
    if results.common_count is None:
        columns["count"] = [f"{row.count:,}" for row in results.rows] + [""] * (len(rows) - len(results.rows))
    for column in results.columns:
        columns[results.heading(column)] = [cell(results, row, column) for row in rows]
    if results.shows_recovery:
        columns["recovery"] = [show_share(results.recovery(row)) for row in rows]
    return list(columns), [*map(list, zip(*columns.values(), strict=True)), *footers(results)]


def footers(results: Results) -> list[list[str]]:
    """Give the lines that end a comparison: how much of the mean each method recovers, and what it costs."""
    if not results.compared:
        return []
    lines: dict[str, Callable[[str], str]] = {
        "parameters (set)": partial(_per_row, results),
        "parameters (all)": partial(_in_all, results),
    }
    if results.summary and "dedicated" in results.columns:
        lines = {"recovery (mean)": partial(_recovered, results, results.summary)} | lines
    pads = [""] * (results.common_count is None)
    ends = [""] * results.shows_recovery
    return [[title, *pads, *map(words, results.columns), *ends] for title, words in lines.items()]


def _recovered(results: Results, row: Row, column: str) -> str:
    is_given = column in ("pretrained", "dedicated")  # 0 and 1 by definition
    return ABSENT if is_given else show_share(results.recovery(row, column))


def _adapter(results: Results, column: str) -> AdapterFacts | None:
    return results.adapter if column == "adapted" else results.compared.get(column)


def _per_row(results: Results, column: str) -> str:
    adapter = _adapter(results, column)
    if adapter:
        return f"{adapter.num_per_row:,}"
    return ABSENT if column == "pretrained" else f"{results.network.num_parameters:,}"


def _in_all(results: Results, column: str) -> str:
    """Count what has to be kept besides the pretrained network."""
    adapter = _adapter(results, column)
    if adapter:
        return f"{adapter.num_total:,}"
    num_networks = {"fine_tuned": 1, "dedicated": sum(row.dedicated is not None for row in results.rows)}
    return f"{results.network.num_parameters * num_networks[column]:,}" if column in num_networks else ABSENT


def cell(results: Results, row: Row, column: str) -> str:
    """Write a cell of the tables: its value, or how many of the outputs were NaN or infinite."""
    count = row.not_finite.get(column)
    return f"NaN in {count:,} of {row.count:,}" if count else show(results, row.value(column))


def show(results: Results, value: float | None) -> str:
    """Write a value as in the tables: percent with one digit, or three digits; a dash where there is none."""
    if value is None:
        return ABSENT
    return f"{100 * value:.1f}" if results.unit == "fraction" and math.isfinite(value) else f"{value:.3f}"


def _rows_in_words(results: Results) -> str:
    counts = [row.count for row in results.rows]
    if results.common_count is not None:
        return f"{results.common_count:,} for each combination"
    return f"{min(counts, default=0):,} to {max(counts, default=0):,}: those that have all of a combination"


def _unscored_in_words(results: Results) -> str:
    lost = [f"{row.combination} ({', '.join(map(results.heading, found))})"
            for row in results.rows if (found := results.unscored(row))]  # fmt: skip
    return f"no finite value, left out of the means: {', '.join(lost)}" if lost else ""


def text(results: Results) -> str:
    """Write results as a terminal shows them: title, facts and table."""
    title = [results.title] if results.title else []
    lines = format_facts({name: words for name, words in facts(results).items() if name != "versions"})
    tables = [format_table(*table(results), rule_before=[len(results.rows)])]
    if found := reliability(results):
        tables += ["", format_table(*found, rule_before=[len(results.rows)])]
    return "\n".join([*title, *lines, "", *tables])


def reliability(results: Results) -> tuple[list[str], list[list[str]]] | None:
    """Give header and cells of how far confidence is true, with the mean over combinations; None where none was asked.

    The facts say what the headings mean.
    """
    rows = [(row.combination, row.reliability) for row in results.rows if row.reliability]
    if not rows:
        return None
    names = ("coverage", "set_size", "ece_before", "ece", "ece_floor", "brier_before", "brier", "answered", "risk")
    shown = [name for name in names if any(getattr(found, name) is not None for _, found in rows)]
    values = [[combination, *(getattr(found, name) for name in shown)] for combination, found in rows]
    means = ["mean", *(_mean([line[1 + place] for line in values]) for place in range(len(shown)))]
    header = ["combination", *(_RELIABILITY[name][0] for name in shown)]
    lines = [*values, *([means] if len(values) > 1 else [])]
    return header, [[str(line[0]), *map(_reliable, shown, line[1:])] for line in lines]


_RELIABILITY = {
    "coverage": ("covered", "{:.1%}"),
    "set_size": ("set", "{:.2f}"),
    "ece_before": ("ECE", "{:.3f}"),
    "ece": ("ECE/T", "{:.3f}"),
    "ece_floor": ("floor", "{:.3f}"),
    "brier_before": ("Brier", "{:.3f}"),
    "brier": ("Brier/T", "{:.3f}"),
    "answered": ("answers", "{:.1%}"),
    "risk": ("wrong", "{:.1%}"),
}
"""Field -> heading and form."""


def _reliable(name: str, value: float | None) -> str:
    return ABSENT if value is None else _RELIABILITY[name][1].format(value)


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None
