"""`Results`: what an evaluation measured, as frozen, versioned plain data; every table and picture is made from it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subsense.errors import ResultsError, closest
from subsense.evaluation import wording
from subsense.support.files import make_folder, write_atomically

FORMAT = 4
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda data: data | {"format": 2},  # 2 adds what is compared; a file of format 1 has none of it
    2: lambda data: data | {"format": 3},  # 3 counts outputs that aren't finite; format 2 scored them like others
    3: lambda data: data | {"format": 4},  # 4 adds the reliability of confidence; a file of format 3 has none
}
"""Format -> what turns a file of that format into the next one; readers of older files live here."""

Column = Literal["pretrained", "adapted", "dedicated", "fine_tuned"]
COLUMNS: dict[Column, str] = {
    "pretrained": "pretrained",
    "adapted": "adapted",
    "dedicated": "dedicated",
    "fine_tuned": "fine-tuned",
}
"""The columns of every result, and the words for them. A comparison of methods has one more for each."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Reliability(_Frozen):
    """Hold how far the adapted network's confidence is true for one combination, see `subsense.confidence`.

    Attributes:
        coverage: share of rows (or positions) whose set holds the truth.
        set_size: mean number of classes in a set; mean width of intervals for values.
        ece, ece_before: expected calibration error, 15 bins of one width, with the temperature and without.
        ece_floor: about what `ece` would be if confidence were true: so few rows scatter.
        brier, brier_before: squared distance of the probabilities to the truth, summed over classes, mean over rows.
        answered: share that isn't abstained from; `risk`: share of wrong answers among these.
    """

    coverage: float
    set_size: float
    ece: float | None = None
    ece_before: float | None = None
    ece_floor: float | None = None
    brier: float | None = None
    brier_before: float | None = None
    answered: float | None = None
    risk: float | None = None


class Row(_Frozen):
    """Hold what was measured for one combination, on `count` rows of data; None where a column was not measured.

    `compared` holds the values of the methods of a comparison, by the names of `Results.compared`. `not_finite` says,
    by column, for how many rows of data the output was NaN or infinite; such a column isn't scored, its value is NaN.
    `intervals` holds, by column, the 95 % bootstrap interval over rows.
    """

    combination: str
    count: int = Field(ge=0)
    pretrained: float | None = None
    adapted: float | None = None
    dedicated: float | None = None
    fine_tuned: float | None = None
    compared: dict[str, float | None] = {}
    not_finite: dict[str, int] = {}
    intervals: dict[str, tuple[float, float]] = {}
    reliability: Reliability | None = None

    def value(self, column: str) -> float | None:
        """Give the value of one of `COLUMNS`, or of a compared method."""
        value: float | None = getattr(self, column) if column in COLUMNS else self.compared.get(column)
        return value


class NetworkFacts(_Frozen):
    """Name the frozen network."""

    name: str
    fingerprint: str
    num_parameters: int = Field(ge=0)


class AdapterFacts(_Frozen):
    """Say what was added to the network: the method, how rows are shared, what fills in, and how many parameters.

    `num_per_row` counts one bank row: with independent sharing, one combination's adapter set. `num_total` counts all
    rows, and a learned fill.
    """

    method: str
    sharing: str
    fill: str
    num_per_row: int = Field(ge=0)
    num_rows: int = Field(ge=0)
    num_total: int = Field(ge=0)


class Results(_Frozen):
    """Hold a metric for every combination, in up to four columns, with what is needed to measure it again.

    In a comparison of methods each one has a column of its own: `compared` says what it is, by the column's name, and
    there need be no `adapter`.

    Values are as the metric gives them: where `unit` is ``"fraction"`` they lie in 0..1 and are printed in percent;
    where it is ``"value"`` (errors, correlations) they are printed as they are. `convention` says how the metric
    counts, where its name leaves that open. `mean_intervals` are those of the `summary`, by column.
    """

    format: Literal[4] = 4
    title: str = ""
    metric: str
    convention: str = ""
    higher_is_better: bool
    unit: Literal["fraction", "value"]
    modalities: dict[str, str | dict[str, str]]
    network: NetworkFacts
    adapter: AdapterFacts | None = None
    compared: dict[str, AdapterFacts] = {}
    seed: int | None = None
    versions: dict[str, str] = {}
    rows: tuple[Row, ...]
    mean_intervals: dict[str, tuple[float, float]] = {}

    def __getitem__(self, combination: str | Iterable[str]) -> Row:
        """Give the row of ``"rgb+depth"``, or of an iterable of names; raise `ResultsError` where there is none."""
        wanted = combination.split("+") if isinstance(combination, str) else list(combination)
        rows = {frozenset(row.combination.split("+")): row for row in self.rows}
        if frozenset(wanted) not in rows:
            name, known = "+".join(wanted), [row.combination for row in self.rows]
            raise ResultsError(f"no row {name!r}; the rows are {', '.join(known)}.{closest(name, known)}")
        return rows[frozenset(wanted)]

    @property
    def complete(self) -> str:
        """Give the combination of all modalities."""
        return "+".join(self.modalities)

    @property
    def incomplete_rows(self) -> tuple[Row, ...]:
        """Give the rows that lack something."""
        return tuple(row for row in self.rows if row.combination != self.complete)

    @property
    def columns(self) -> tuple[str, ...]:
        """Give the columns which hold at least one value: those of `COLUMNS`, then the compared methods."""
        names = (*COLUMNS, *self.compared)
        return tuple(column for column in names if any(row.value(column) is not None for row in self.rows))

    def heading(self, column: str) -> str:
        """Give the words for a column."""
        return next((text for name, text in COLUMNS.items() if name == column), column)

    def recovery(self, row: Row, column: str = "adapted") -> float | None:
        """Compute (adapted - pretrained) / (dedicated - pretrained): 1 is as good as the dedicated network.

        More is better whatever the metric's direction. None where a value is absent, and where the dedicated network is
        no better than the pretrained one: then nothing was lost that could be recovered. `column` says which adapters.
        """
        adapted = row.value(column)
        if row.pretrained is None or adapted is None or row.dedicated is None:
            return None
        if not all(map(math.isfinite, (row.pretrained, adapted, row.dedicated))):
            return None
        sign = 1 if self.higher_is_better else -1
        lost = sign * (row.dedicated - row.pretrained)
        return sign * (adapted - row.pretrained) / lost if lost > 0 else None

    def mean(self, combinations: Iterable[str] | None = None) -> Row | None:
        """Average the rows that lack something, or those of the combinations asked for; None where there are none.

        A column that lacks a value in one of these rows has no mean, since it would be one of other combinations than
        its neighbours'. A combination for which a column has no finite value is left out of all means, and the name
        says so. The recovery of the row is that of the means.
        """
        asked = self.incomplete_rows if combinations is None else tuple(self[one] for one in combinations)
        rows = [row for row in asked if not self.unscored(row)]
        if not rows:
            return None
        means: dict[str, Any] = {column: _mean([row.value(column) for row in rows]) for column in COLUMNS}
        compared = {column: _mean([row.value(column) for row in rows]) for column in self.compared}
        name = "mean (incomplete)" if combinations is None else "mean"
        if len(rows) < len(asked):
            name = f"mean ({len(rows)} of {len(asked)}{' incomplete' * (combinations is None)})"
        return Row(combination=name, count=sum(row.count for row in rows), compared=compared, **means)

    @property
    def summary(self) -> Row | None:
        """Give the mean that ends the tables: over the combinations that lack something, where there are several."""
        mean = self.mean() if len(self.incomplete_rows) > 1 else None
        if mean is None or any(map(self.unscored, self.incomplete_rows)):  # the intervals are those of all of them
            return mean
        return mean.model_copy(update={"intervals": self.mean_intervals})

    def unscored(self, row: Row) -> list[str]:
        """Give the columns without a finite value for a combination: NaN or infinite outputs, an undefined metric."""
        values = {column: row.value(column) for column in (*COLUMNS, *self.compared)}
        return [column for column, value in values.items() if value is not None and not math.isfinite(value)]

    @property
    def common_count(self) -> int | None:
        """Give how many rows of data every combination was measured on; None where that differs."""
        counts = {row.count for row in self.rows}
        return counts.pop() if len(counts) == 1 else None

    @property
    def measured(self) -> tuple[Row, ...]:
        """Give the rows with the `summary`, where there is one, at their end."""
        return (*self.rows, *([self.summary] if self.summary else []))

    @property
    def shows_recovery(self) -> bool:
        """Say whether the recovery of the adapted column has a column of its own."""
        return "dedicated" in self.columns and ("adapted" in self.columns or not self.compared)

    def cell(self, row: Row, column: str) -> str:
        """Write a cell of the tables, see `subsense.evaluation.wording.cell`."""
        return wording.cell(self, row, column)

    @property
    def measure(self) -> str:
        """Name the metric with its unit and direction, as headings do."""
        return wording.measure(self)

    @property
    def facts(self) -> dict[str, str]:
        """Say in words, by heading, what was measured and how."""
        return wording.facts(self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Give header and cells as texts, see `subsense.evaluation.wording.table`."""
        return wording.table(self)

    def footers(self) -> list[list[str]]:
        """Give the lines that end a comparison, see `subsense.evaluation.wording.footers`."""
        return wording.footers(self)

    def __str__(self) -> str:
        return wording.text(self)

    __repr__ = __str__

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the results as JSON, whole or not at all; make the folder where it is missing. Return the path."""
        target = Path(path)
        make_folder(target.parent)
        write_atomically(target, f"{self.model_dump_json(indent=2)}\n".encode())
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read results that `save` wrote, by this version of subsense or an older one.

        Raises:
            ResultsError: the file is absent, is not JSON, is of a newer format, or lacks something.
        """
        try:
            data = json.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise ResultsError(f"{path}: no such file; expected results that `save` wrote") from None
        except (OSError, ValueError) as error:
            raise ResultsError(f"{path}: expected results as JSON, but it can't be read: {error}") from None
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: object, source: str = "results") -> Self:
        """Read results from plain data; `source` is what messages call it. Raise as `load` does."""
        upgraded = _upgrade(data, source)
        try:
            return cls.model_validate(upgraded)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise ResultsError(f"{source}: not whole results of format {FORMAT}: {faults}") from None


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if len(present) == len(values) else None


def _upgrade(data: object, source: str) -> dict[str, Any]:
    """Bring the data of an older format to this one."""
    found = data.get("format") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(found, int) or found < 1:
        raise ResultsError(f'{source}: expected results of subsense, with "format": {FORMAT}, but found none')
    if found > FORMAT:
        raise ResultsError(
            f"{source}: written by a newer subsense, as format {found}; this one reads up to {FORMAT}: upgrade subsense"
        )
    for version in range(found, FORMAT):
        data = _UPGRADES[version](data)
    return data
