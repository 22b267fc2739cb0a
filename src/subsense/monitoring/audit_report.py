"""`AuditReport`: what an audit found, as plain data and as one page."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from subsense.support.tables import format_share, format_table, listed

Kind = Literal["leak", "mask", "ignored", "statistics", "sentinel", "constant", "not finite", "not checked"]
HEADINGS: dict[Kind, str] = {
    "leak": "LEAK",
    "mask": "MASK DOES NOTHING",
    "ignored": "IGNORED",
    "statistics": "STATISTICS OVER THE BATCH",
    "sentinel": "NO VALUE, READ AS DATA",
    "constant": "CONSTANT",
    "not finite": "NOT FINITE",
    "not checked": "NOT CHECKED",
}
MOST_COMBINATIONS = 12


@dataclass(frozen=True)
class Fault:
    """Hold one thing that was found: its kind, the modality (empty: all of them), and a sentence."""

    kind: Kind
    modality: str
    text: str

    def __str__(self) -> str:
        return f"{HEADINGS[self.kind]}  {self.text}"


@dataclass(frozen=True)
class Probe:
    """Hold how far outputs moved for one modality, in units of the output's spread between rows; None: not tried.

    Attributes:
        modality: its name.
        share: of the rows of data, those that have it.
        leak: its values changed where it is declared missing; anything but 0 is a leak.
        reaction: its values changed where it is present; 0 says that the network ignores it.
        mask: declared missing instead of present, its values as they were; 0 says that the mask does nothing.
    """

    modality: str
    share: float
    leak: float | None = None
    reaction: float | None = None
    mask: float | None = None


@dataclass(frozen=True)
class AuditReport:
    """Hold what `subsense.audit` found; printing it gives the page.

    Attributes:
        network: the class of what was audited.
        num_rows: rows of data that were looked at.
        num_complete: those of them that have every modality.
        num_probed: rows that were run through the network.
        combinations: combination -> rows of data that have exactly it, the most frequent first.
        probes: how far outputs moved, by modality.
        faults: what was found.
    """

    network: str
    num_rows: int
    num_complete: int
    num_probed: int
    combinations: dict[str, int]
    probes: tuple[Probe, ...]
    faults: tuple[Fault, ...]

    @property
    def leaks(self) -> tuple[Fault, ...]:
        """Give the faults by which what is declared missing reaches the output."""
        return self.of("leak")

    @property
    def idle(self) -> tuple[Fault, ...]:
        """Give the masks that do nothing and the modalities that the network ignores."""
        return (*self.of("mask"), *self.of("ignored"))

    def of(self, kind: Kind) -> tuple[Fault, ...]:
        """Give the faults of a kind."""
        return tuple(fault for fault in self.faults if fault.kind == kind)

    def as_dict(self) -> dict[str, Any]:
        """Give everything as plain data, for JSON."""
        return asdict(self)

    @property
    def facts(self) -> dict[str, str]:
        """Say in words, by heading, what was looked at."""
        share = _share(self.num_complete / self.num_rows)
        return {
            "network": self.network,
            "rows": f"{self.num_rows:,} of data, {self.num_complete:,} of them complete ({share}); "
            f"{self.num_probed:,} run through the network",
            "combinations": listed([f"{name} {count:,}" for name, count in self.combinations.items()]),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Give header and cells of how far outputs moved."""
        header = ["modality", "in rows", "missing, changed", "present, changed", "switched off"]
        return header, [
            [one.modality, _share(one.share), _moved(one.leak), _moved(one.reaction), _moved(one.mask)]
            for one in self.probes
        ]

    @property
    def sentences(self) -> list[str]:
        """Give what was found, the leaks first; or that nothing was."""
        found = [str(fault) for kind in HEADINGS for fault in self.of(kind)]
        return found or ["Nothing found: what is missing is never read, and what is present counts."]

    def text(self, width: int = 80) -> str:
        """Write the page for a terminal of so many columns."""
        lines = [line for name, words in self.facts.items() for line in _wrapped(f"{name:<14}", words, width)]
        table = format_table(*self.table(), width=width)
        legend = _wrapped(
            "", "How far the output moves, in units of its spread between rows: the first must be 0, the others not.",
            width,
        )  # fmt: skip
        counts = [[name, f"{count:,}", _share(count / self.num_rows)] for name, count in self._most()]
        combinations = format_table(["what rows have", "rows", "share"], counts, width=width)
        found = [line for sentence in self.sentences for line in _wrapped("- ", sentence, width)]
        return "\n".join([*lines, "", table, *legend, "", combinations, "", *found])

    def _most(self) -> list[tuple[str, int]]:
        items = list(self.combinations.items())
        if len(items) <= MOST_COMBINATIONS:
            return items
        rest = items[MOST_COMBINATIONS - 1 :]
        return [*items[: MOST_COMBINATIONS - 1], (f"{len(rest)} others", sum(count for _, count in rest))]

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__


def _share(share: float) -> str:
    return "100%" if share == 1 else format_share(share)


def _moved(value: float | None) -> str:
    if value is None:
        return "–"
    return "NaN" if not math.isfinite(value) else "0" if value == 0 else f"{value:.2g}"


def _wrapped(head: str, text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, width, initial_indent=head, subsequent_indent=" " * len(head))
