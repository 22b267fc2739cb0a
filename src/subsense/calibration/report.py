"""What a calibration did, and what can be recovered at all: for every site and combination, and at the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from subsense.calibration.recovery import Recovery
from subsense.support.tables import format_table

NOTHING = 0.02
"""Of the output's variance: what loses less needs nothing."""
LITTLE = 0.25
"""Of what is lost: a combination of which less comes back is beyond an adapter."""
MORE = 0.15
"""Of what a map gets back: so much more than scale and shift makes rank worth it."""


@dataclass(frozen=True)
class OutputRecovery:
    """Hold what one combination loses at the network's output, and how much of it its calibrated set gets back.

    Attributes:
        lost: squared difference of the frozen network's output to that with everything present, relative to the
            variance of the latter.
        recovered: share of it that the calibrated network gets back.
        rows: held-out rows on which it was measured.
    """

    lost: float
    recovered: float
    rows: int


@dataclass(frozen=True)
class CalibrationReport:
    """Hold what a calibration did. Printing it gives a table.

    Attributes:
        combinations: those that were calibrated.
        method: the methods' names.
        rank, ridge: as they were used.
        rows: rows that sets were fitted on.
        held_out: rows that they were not fitted on, which all shares are measured on.
        left_out: rows of the loader that lack something, so that it isn't known what they give with everything.
        seconds: processor time of the process.
        sites: (combination, site) -> what can be recovered there; sites too wide for a full map are not in it.
        outputs: combination -> what is recovered at the output.
        not_finite: (combination, site) -> positions that were left out, since they were no finite number.
    """

    combinations: tuple[str, ...]
    method: str
    rank: int
    ridge: float
    rows: int
    held_out: int
    left_out: int
    seconds: float
    sites: Mapping[tuple[str, str], Recovery] = field(default_factory=dict)
    outputs: Mapping[str, OutputRecovery] = field(default_factory=dict)
    not_finite: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def total(self, combination: str) -> Recovery | None:
        """Give the mean over sites at which anything is lost, weighted by what is lost there."""
        cells = [one for (name, _), one in self.sites.items() if name == combination and 0 < one.lost < float("inf")]
        if not cells:
            return None
        weight = sum(one.lost for one in cells)
        means = [
            sum(one.lost * getattr(one, name) for one in cells) / weight for name in ("channels", "low_rank", "linear")
        ]
        return Recovery(weight / len(cells), *means)

    def verdict(self, combination: str) -> str:
        """Say what a combination needs: nothing, scale and shift, rank, or more than an adapter can do."""
        output, sites = self.outputs.get(combination), self.total(combination)
        if output is None:
            return ""
        if output.lost < NOTHING or sites is None:
            return "needs nothing"
        if max(output.recovered, 0.0) < LITTLE and sites.linear < LITTLE:
            return "beyond an adapter"
        more = sites.low_rank - sites.channels
        return "needs rank" if more > MORE * max(sites.linear, sites.low_rank) else "scale and shift do"

    def as_dict(self) -> dict[str, Any]:
        """Give everything as JSON data."""
        data = {name: value for name, value in asdict(self).items() if name not in ("sites", "not_finite")}
        sites = [{"combination": key[0], "site": key[1], **asdict(one)} for key, one in self.sites.items()]
        bad = [{"combination": key[0], "site": key[1], "positions": count} for key, count in self.not_finite.items()]
        return data | {"sites": sites, "not_finite": bad}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{self.method}, rank {self.rank}, ridge {self.ridge:g}: {len(self.combinations)} combinations, fitted on "
            f"{self.rows} rows without labels in {self.seconds:.1f} s of processor time"
        )
        if self.left_out:
            yield f"left out: {self.left_out} rows that lack a modality"
        for (combination, site), count in self.not_finite.items():
            yield f"{combination}: {count} positions of {site} are no finite number and were left out"
        if not self.outputs:
            yield "nothing was held out, so nothing was measured"
            return
        yield f"measured on {self.held_out} rows that were held out; shares of what is lost, in %"
        yield ""
        header = ["combination", "lost", "recovered", "scale+shift", f"rank {self.rank}", "linear", "verdict"]
        yield format_table(header, [self._row(one) for one in self.combinations], align="lrrrrrl", width=100)
        yield ""
        yield "lost, recovered: at the output, of its variance and of what is lost; the other columns: mean over sites"

    def _row(self, combination: str) -> list[str]:
        output, sites = self.outputs[combination], self.total(combination)
        shares = [f"{100 * value:.0f}" for value in (sites.channels, sites.low_rank, sites.linear)] if sites else []
        cells = [f"{100 * output.lost:.0f}", f"{100 * output.recovered:.0f}" if output.lost else ""]
        return [combination, *cells, *(shares or [""] * 3), self.verdict(combination)]
