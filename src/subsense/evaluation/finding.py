"""`Finding`: what an experiment found, as frozen, versioned plain data: a table, charts, and what it says in words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from subsense.errors import ResultsError
from subsense.support.files import write_atomically
from subsense.support.tables import format_facts, format_table

Look = Literal["pretrained", "adapted", "dedicated", "fine_tuned", "other", "second", "third"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Series(_Frozen):
    """Hold one line of a chart, one set of points where `joined` is false; `labels` stand beside the points."""

    name: str
    look: Look
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, ...] = ()
    joined: bool = True


class Level(_Frozen):
    """Hold a value that is the same for every x: a line across the chart."""

    name: str
    look: Look
    y: float


class Mark(_Frozen):
    """Hold a point that the chart points out, and what it says there."""

    x: float
    y: float
    text: str


class Chart(_Frozen):
    """Hold one chart; `ticks` are the words below x = 0, 1, 2, ...; bars stand at whole numbers, side by side."""

    title: str = ""
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: Literal["lines", "bars"] = "lines"
    ticks: tuple[str, ...] = ()
    log_x: bool = False
    levels: tuple[Level, ...] = ()
    marks: tuple[Mark, ...] = ()


class Finding(_Frozen):
    """Hold what an experiment found.

    Attributes:
        experiment: its name.
        title: what was measured, on which data.
        facts: heading -> words, as in `Results.facts`.
        header, rows: a table, as texts.
        says: what the numbers say, in sentences made from them.
        charts: drawn side by side.
    """

    format: Literal[1] = 1
    experiment: str
    title: str
    facts: dict[str, str]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    says: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()

    def __str__(self) -> str:
        table = format_table(list(self.header), [list(row) for row in self.rows])
        facts = format_facts({name: words for name, words in self.facts.items() if name != "versions"})
        return "\n".join([self.title, *facts, "", table, *(["", *self.says] if self.says else [])])

    __repr__ = __str__

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the finding as JSON, whole or not at all; make the folder where it is missing. Return the path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, (self.model_dump_json(indent=2) + "\n").encode())
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; raise `ResultsError` where the file is absent or no finding."""
        try:
            return cls.model_validate(json.loads(Path(path).read_text("utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise ResultsError(f"{path}: expected a finding that `save` wrote, but it can't be read: {error}") from None
