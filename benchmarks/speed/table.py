"""What was measured as Markdown: one table of goals and whether they were reached, then the peers and the growth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Numbers = Mapping[str, Any]
Cells = tuple[str, ...]

HEADING = ("figure", "network", "threads", "to reach", "measured", "reached", "beside it, same run")
GAP = 1e-5  # an exported program adds up in another order


@dataclass(frozen=True)
class Goal:
    """Say which number of a figure is a row of the table, and what it is to reach at most.

    Attributes:
        title: the row's name.
        figure, way, key: where the number lies; without a way the figure's numbers are its own.
        beside: ways, or keys, that are shown with it.
        most: network -> what to reach; networks without one are reported.
    """

    title: str
    figure: str
    way: str
    key: str
    beside: Sequence[str] = ()
    most: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""


PEERS = ("naive", "peft lora", "peft ia3", "all weights")
GOALS = [
    Goal("training step / floor", "training step / floor", "subsense ssf", "ratio", PEERS,
         {"vilt": 1.04, "segformer": 1.06, "cmnext": 1.08}),
    Goal("training step / floor, rows differ", "training step / floor", "subsense ssf, mixed rows", "ratio"),
    Goal("peak memory / floor", "memory", "subsense ssf", "peak / floor", PEERS,
         {"vilt": 1.25, "segformer": 1.00, "cmnext": 1.00}),
    Goal("small network, a step with SSF / all weights", "small network, step / all weights",
         "subsense ssf", "ratio", (), dict.fromkeys(("digits", "utd-mhad", "lstm fusion"), 0.9)),
    Goal("small network, a step with LoRA of rank 4 / all weights", "small network, step / all weights",
         "subsense lora 4", "ratio", (), dict.fromkeys(("digits", "utd-mhad", "lstm fusion"), 1.1)),
    Goal("kept above the floor / naive's", "memory", "subsense ssf", "kept above floor / naive's", PEERS,
         {"vilt": 0.45, "segformer": 0.21}),
    Goal("forward of one combination / frozen", "inference / frozen", "subsense", "ratio", ("naive", "peft lora"),
         {"vilt": 1.02, "segformer": 1.04, "cmnext": 1.05}),
    Goal("folded inference / frozen", "inference / frozen", "subsense, folded", "ratio", (),
         dict.fromkeys(("vilt", "segformer", "cmnext"), 1.00)),
    Goal("nothing missing / frozen", "inference / frozen", "subsense, nothing missing", "ratio", (),
         dict.fromkeys(("vilt", "segformer", "cmnext"), 1.00)),
    Goal("mixed batch, 15 rows 15 combinations / frozen", "mixed batch / frozen", "subsense", "ratio",
         ("subsense, additive", "loop over combinations", "peft lora"), {"vilt": 1.06, "segformer": 1.18}),
    Goal("present=\"auto\" / nothing missing", "quality / nothing missing", "auto", "ratio", (),
         {"vilt": 1.03}),
    Goal("quality of 0 and 1 / the same as bool", "quality / nothing missing", "float / bool", "ratio", (),
         {"vilt": 1.01}),
    Goal("switching: choosing the set", "switching", "subsense, choosing", "us", ("peft lora, set_adapter",),
         {"vilt": 10, "segformer": 10}, " us"),
    Goal("switching: forward after a switch - without", "switching", "subsense, forward after a switch - without",
         "us", (), {"vilt": 10, "segformer": 10}, " us"),
    Goal("inject 15 sets", "handling, ms", "", "inject 15 sets", ("peft inject 15 sets",),
         {"vilt": 15, "segformer": 15}, " ms"),
    Goal("load 15 sets", "handling, ms", "", "load 15 sets", ("peft load 15 sets", "fingerprint"),
         {"vilt": 5, "segformer": 5}, " ms"),
    Goal("import subsense / import torch", "import / torch", "subsense", "ratio"),
    Goal("torch.compile, graphs for all combinations", "graphs", "", "graphs", ("combinations",), {"segformer": 1}),
    Goal("torch.export, combination an input: differs from eager by", "graphs", "", "export differs by", (),
         {"segformer": GAP}),
]  # fmt: skip


def markdown(result: Numbers) -> str:
    """Write everything that was measured so far."""
    found = parts(result)
    headed = [
        found["table"],
        *(f"### {name.capitalize()}\n\n{found[name]}" for name in ("growth", "size") if name in found),
    ]
    every = [_figure(entry) for entry in result["measured"] if entry["figure"] not in ("growth", "size")]
    return "\n\n".join([*headed, "### Every number", *every]) + "\n"


def parts(result: Numbers) -> dict[str, str]:
    """Give what docs/performance.md holds of a run: the table of goals, growth and sizes, as far as measured."""
    about = f"`{result['command']}`, {result['seconds']:.0f} s: {result['versions']}, {result['machine']}, device "
    about += f"{result['device']}, load before {result['load before']}, seed {result['seed']}."
    found = {"table": f"{about}\n\n{_table(HEADING, _rows(result['measured']))}"}
    for figure in ("growth", "size"):
        rows = [entry["numbers"] for entry in _of(result["measured"], figure)]
        found |= {figure: _plain(rows)} if rows else {}
    return found


def _rows(measured: Sequence[Numbers]) -> Iterator[Cells]:
    for goal in GOALS:
        for entry in measured:
            if entry["figure"] == goal.figure:
                yield _row(goal, entry)
    yield from _few(measured)
    yield from _absent(measured)
    yield from _growth(measured)
    yield from _sizes(measured)


def _row(goal: Goal, entry: Numbers) -> Cells:
    numbers = entry["numbers"]
    own = numbers[goal.way] if goal.way else numbers
    beside = {way: numbers[way][goal.key] if goal.way and goal.key in numbers[way] else numbers[way]
              for way in goal.beside if way in numbers}  # fmt: skip
    noise = own.get("spread") if goal.key == "ratio" else own.get("noise us")
    measured = _text(own[goal.key]) + goal.unit + (f" ± {_text(noise)}" if noise is not None else "")
    shown = ", ".join(f"{way} {_text(value)}{goal.unit}" for way, value in beside.items())
    most = goal.most.get(entry["network"])
    cells = (goal.title, *_cells(entry, own[goal.key], most, measured, shown, goal.unit))
    if "noise us" in own and most is not None and abs(own[goal.key] - most) <= own["noise us"]:
        return *cells[:5], "within the noise", shown
    return cells


def _cells(entry: Numbers, value: float, most: float | None, measured: str, shown: str = "", unit: str = "") -> Cells:
    wanted = "-" if most is None else _goal(most) + unit
    reached = "-" if most is None else "yes" if value <= most + _slack(most) else "no"
    return entry["network"], str(entry["threads"]), wanted, measured, reached, shown


def _goal(most: float) -> str:
    return f"{most:g}" if isinstance(most, int) or most < 0.01 else f"{most:.2f}"


def _slack(most: float) -> float:
    """Give half of the last digit of a goal that is equality: 1.00 is reached by what rounds to it."""
    return 0.005 if most == 1.0 else 0.0


def _few(measured: Sequence[Numbers]) -> Iterator[Cells]:
    for entry in _of(measured, "few combinations / frozen"):
        ratio = {way: one["ratio"] for way, one in entry["numbers"].items()}
        others = {way: ratio[way] for way in ("gathered", "loop over combinations")}
        noise = entry["numbers"]["subsense"]["spread"]
        shown = ", ".join(f"{way} {_text(value)}" for way, value in others.items())
        cheaper = min(others, key=lambda way: others[way])
        reached = "yes" if ratio["subsense"] <= others[cheaper] + noise else "no"
        figure = "mixed batch, 4 rows 2 combinations, sides doubled / frozen"
        measured_text = f"{_text(ratio['subsense'])} ± {_text(noise)}"
        yield figure, entry["network"], str(entry["threads"]), "the cheaper", measured_text, reached, shown


def _absent(measured: Sequence[Numbers]) -> Iterator[Cells]:
    for entry in _of(measured, "absent branch / frozen"):
        for one in entry["numbers"]:
            shown = f"operations {_text(one['operations'])}, differs by {one['difference']:.0e}"
            title = f"absent branch dropped, {one['rows']} row{'s' * (one['rows'] > 1)} / frozen"
            yield title, *_cells(entry, one["time"], one["target"], _text(one["time"]), shown)


def _growth(measured: Sequence[Numbers]) -> Iterator[Cells]:
    found = [entry["numbers"] for entry in _of(measured, "growth")]
    for sharing in ("additive", "independent"):
        rows = [row for row in found if row["sharing"] == sharing]
        if len(rows) > 1:
            first, last = rows[0], rows[-1]
            span = f"M = {last['modalities']} against M = {first['modalities']}"
            step, adamw = (last[key] / first[key] for key in ("step / floor", "step with AdamW / floor"))
            entry = {"network": "segformer", "threads": 1}
            title = f"joint step / floor, {span}, {sharing}"
            yield title, *_cells(entry, step, 1.10, _text(step), f"with AdamW {_text(adamw)}")


def _sizes(measured: Sequence[Numbers]) -> Iterator[Cells]:
    rows = [entry["numbers"] for entry in _of(measured, "size")]
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        grown = {
            sharing: last[f"{sharing} bytes"] / first[f"{sharing} bytes"] for sharing in ("additive", "independent")
        }
        most = last["modalities"] / first["modalities"]
        title = f"size on disk, M = {last['modalities']} / M = {first['modalities']}, additive"
        entry = {"network": "vilt", "threads": 1}
        yield title, *_cells(entry, grown["additive"], most, _text(grown["additive"]),
                             f"independent {_text(grown['independent'])}")  # fmt: skip


def _of(measured: Sequence[Numbers], figure: str) -> Iterator[Numbers]:
    return (entry for entry in measured if entry["figure"] == figure)


def _figure(entry: Numbers) -> str:
    title = f"**{entry['figure']}: {entry['network']}, {entry['threads']} thread{'s' * (entry['threads'] > 1)}**"
    numbers = entry["numbers"]
    if isinstance(numbers, list):
        return f"{title}\n\n" + _plain(numbers)
    if all(isinstance(one, Mapping) for one in numbers.values()):
        return f"{title}\n\n" + _plain([{"": way} | dict(one) for way, one in numbers.items()])
    return f"{title}\n\n" + _plain([{"": key, "value": value} for key, value in numbers.items()])


def _plain(rows: Sequence[Numbers]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _table(names, ([_text(row.get(name, "")) for name in names] for row in rows))


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
