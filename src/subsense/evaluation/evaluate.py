"""Measure every combination in one pass over the data: frozen network, adapter sets, and their baselines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from subsense.adapters import words_of
from subsense.errors import InputError, closest
from subsense.evaluation import metrics
from subsense.evaluation.intervals import interval, interval_of_mean
from subsense.evaluation.measure import Measure
from subsense.evaluation.results import AdapterFacts, Column, NetworkFacts, Reliability, Results, Row
from subsense.modalities import Combination, Modalities
from subsense.modalities.declaration import Wanted
from subsense.modalities.loaders import available, graded, moved, split_labelled, take
from subsense.model.filled import FilledNetwork
from subsense.model.robust import RobustModel
from subsense.model.scores import select_scores
from subsense.support.modules import device_of, evaluating
from subsense.support.torch_private import name_of

if TYPE_CHECKING:
    from subsense.evaluation.metrics import MetricLike
    from subsense.evaluation.reliability import Reliable

Runs = Callable[[Any, Tensor], Any]
"""What is called with inputs and `present`, and gives the network's output."""
Cell = tuple[Combination, str]
"""What was asked for, and a column: one of `Column`, or the heading of what is compared."""
Given = Mapping[Any, "nn.Module | float"]


def evaluate(
    robust: RobustModel,
    loader: Iterable[Any],
    *,
    metric: MetricLike,
    combinations: Wanted = "all",
    columns: Collection[Column] = ("pretrained", "adapted"),
    dedicated: Given | None = None,
    finetuned: nn.Module | Given | None = None,
    compared: Mapping[str, RobustModel] | None = None,
    select: Callable[[Any], Tensor] | None = None,
    seed: int | None = None,
    title: str = "",
    progress: bool = True,
) -> Results:
    """Measure what the network does with each combination of its modalities.

    Each combination is measured on the rows of data that have all of it; what else they have is withheld. All
    combinations and columns see a batch together, so the loader is read once. Everything runs in eval mode, without
    gradients, on the device of `robust`; every module is in its former mode afterwards. Nothing is drawn at random.

    Args:
        robust: the network with its adapter sets.
        loader: batches ``(inputs, target)``: ``{modality: tensor (batch, ...)}``, which may hold ``"present"``, bool
            (batch, modality), and the tensor that the metric compares with.
        metric: a name such as ``"accuracy"`` or ``"miou"``; with options, ``{"miou": {"ignore_index": 255}}``; a
            `torchmetrics.Metric`; or what `subsense.evaluation.metrics.build` makes.
        combinations: ``"all"``, the complete one included, or those to measure.
        columns: which of ``"pretrained"`` (the frozen network on filled inputs) and ``"adapted"`` to measure.
        dedicated: combination -> a network trained for it alone, called as the frozen one is; or its measured value.
        finetuned: the whole network fine-tuned, for all combinations, or a mapping as for `dedicated`.
        compared: heading -> the same network with other adapter sets, each a column of its own.
        select: takes the scores out of the network's output; by default the tensor that it is, or its ``logits``.
        seed: what the adapters were trained with; kept in the results.
        title: what the results call themselves, such as the data's name.
        progress: write to stderr how far it is, where that is a terminal.

    Returns:
        Frozen `Results`, which print as a table.

    Raises:
        InputError: a batch of another form, an unknown column, or no batch at all.
        MetricError: an unknown metric, or one that doesn't fit the output.
        UntrainedCombination: a combination was asked for which `robust` refuses by its policy.

    >>> import torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"})
    >>> batch = {"left": torch.randn(8, 4), "right": torch.randn(8, 6)}, torch.randint(3, (8,))
    >>> robust.mark_trained(robust.combinations)  # by `train`, were this more than an example
    >>> results = ss.evaluate(robust, [batch], metric="accuracy", progress=False)
    >>> [row.combination for row in results.rows]
    ['left', 'right', 'left+right']
    """
    asked = asked_for(robust.modalities, combinations)
    robust.trained_on.check()
    baselines = _baselines(robust, asked, dedicated, finetuned)
    modules = {cell: what for cell, what in baselines.items() if isinstance(what, nn.Module)}
    others = _check_compared(robust, compared or {})
    runs: dict[Cell, Runs] = {
        **_own(robust, asked, columns),
        **{cell: _around(robust, module) for cell, module in modules.items()},
        **{(one, name): other for name, other in others.items() for one in asked},
    }
    device = device_of(robust.network)
    table = _Table(robust.modalities, metrics.build(metric).to(device), runs, asked, select or select_scores)
    table.reliable = _reliable(robust, asked)
    with evaluating(robust, *modules.values(), *others.values()), torch.no_grad():
        for batch in _shown(loader, progress):
            inputs, target = split_labelled(batch)
            table.update(moved(inputs, device), target.to(device))
    known = {cell: float(what) for cell, what in baselines.items() if not isinstance(what, nn.Module)}
    return _results(robust, table, {**table.compute(), **known}, others, seed, title)


class _Table:
    """Hold one measure for each combination and column, and how many rows each combination was measured on."""

    def __init__(
        self,
        modalities: Modalities,
        measure: Measure,
        runs: Mapping[Cell, Runs],
        combinations: Collection[Combination],
        select: Callable[[Any], Tensor],
    ) -> None:
        self.modalities = modalities
        self.measure = measure
        self.runs = runs
        self.select = select
        self.counts = dict.fromkeys(combinations, 0)
        self.measures = {cell: measure.fresh() for cell in runs}
        self.reliable: Mapping[Combination, Reliable] = {}

    def update(self, inputs: Mapping[str, Any], target: Tensor) -> None:
        """Take in one batch."""
        has = available(self.modalities, inputs)
        values = {name: value for name, value in inputs.items() if name != "present" and value is not None}
        for combination in self.counts:
            wanted = self.modalities.present(combination)
            rows = has[:, wanted].all(dim=1).nonzero().flatten()
            if len(rows):
                some, truth = take(values, rows, len(has), "inputs"), take(target, rows, len(has))
                self._update(combination, some, graded(wanted.expand(len(has), -1), inputs)[rows], truth)

    def _update(self, combination: Combination, inputs: Any, present: Tensor, target: Tensor) -> None:
        self.counts[combination] += len(target)
        for (owner, column), run in self.runs.items():
            if owner == combination:
                scores = self._scores(run, inputs, present)
                self.measures[owner, column].update(scores, target)
                if column == "adapted" and combination in self.reliable:
                    self.reliable[combination].update(scores, target)

    def _scores(self, run: Runs, inputs: Mapping[str, Any], present: Tensor) -> Tensor:
        """Give the scores; a single row runs beside a copy of itself where the network squeezes its axis away."""
        scores = self.select(run(inputs, present))
        if len(present) > 1 or not isinstance(scores, Tensor) or (scores.dim() and len(scores) == 1):
            return scores
        twice = take(inputs, torch.zeros(2, dtype=torch.int64), 1, "inputs")
        return self.select(run(twice, present.expand(2, -1)))[:1]

    def compute(self) -> dict[Cell, float]:
        """Give the measured cells; combinations that no row of data has are left out."""
        return {cell: measure.compute() for cell, measure in self.measures.items() if self.counts[cell[0]]}

    def reliability(self, combination: Combination) -> Reliability | None:
        """Say how far the confidence of a combination is true; None where none was calibrated or no row has it."""
        found = self.reliable.get(combination)
        return found.compute() if found and found.sums[0] else None

    def intervals(self, combination: Combination) -> dict[str, tuple[float, float]]:
        """Give the bootstrap intervals of a combination, by column."""
        found = {column: interval(self.measures[owner, column].resampled())
                 for owner, column in self.runs if owner == combination}  # fmt: skip
        return {column: ends for column, ends in found.items() if ends}

    def mean_intervals(self) -> dict[str, tuple[float, float]]:
        """Give those of the means over what lacks something, where all of it was measured on as many rows."""
        lacking = {one: count for one, count in self.counts.items() if len(one) < len(self.modalities)}
        if len(lacking) < 2 or len(set(lacking.values())) > 1:
            return {}
        cells: dict[str, list[Measure]] = {}
        for owner, column in self.runs:
            if owner in lacking:
                cells.setdefault(column, []).append(self.measures[owner, column])
        found = {column: interval_of_mean([measure.resampled() for measure in some])
                 for column, some in cells.items() if len(some) == len(lacking)}  # fmt: skip
        return {column: ends for column, ends in found.items() if ends}

    def not_finite(self, combination: Combination) -> dict[str, int]:
        """Count the rows of a combination whose output is NaN or infinite, by column."""
        counts = {column: self.measures[owner, column].num_not_finite for owner, column in self.runs
                  if owner == combination}  # fmt: skip
        return {column: count for column, count in counts.items() if count}


def _reliable(robust: RobustModel, asked: Iterable[Combination]) -> dict[Combination, Reliable]:
    """Give what measures the confidence of combinations; nothing where none was calibrated."""
    if (trusted := robust.confidence) is None:
        return {}
    from subsense.evaluation.reliability import Reliable

    rows = {one: robust.modalities.present(one).double().tolist() for one in asked}
    return {one: Reliable(trusted, trusted.trust(row, robust.modalities)) for one, row in rows.items()}


def asked_for(modalities: Modalities, combinations: Wanted) -> tuple[Combination, ...]:
    """Give the combinations to measure, the complete one among ``"all"``."""
    return modalities.select(combinations, complete=True)


def _own(robust: RobustModel, asked: Iterable[Combination], columns: Collection[Column]) -> dict[Cell, Runs]:
    """Give the cells that `robust` itself can fill."""
    runs: dict[Column, Runs] = {"pretrained": robust.pretrained, "adapted": robust}
    for column in columns:
        if column not in runs:
            hint = (
                "; `dedicated=` and `finetuned=` add the others"
                if column in get_args(Column)
                else closest(column, runs)
            )
            raise InputError(f"columns: expected 'pretrained' or 'adapted', but found {column!r}{hint}")
    return {(combination, column): runs[column] for combination in asked for column in runs if column in columns}


def _baselines(
    robust: RobustModel, asked: Collection[Combination], dedicated: Given | None, finetuned: nn.Module | Given | None
) -> dict[Cell, nn.Module | float]:
    """Give the cells of what the caller passed to compare with."""
    whole = dict.fromkeys(asked, finetuned) if isinstance(finetuned, nn.Module) else finetuned
    given: dict[Column, Given] = {"dedicated": dedicated or {}, "fine_tuned": whole or {}}
    cells: dict[Cell, nn.Module | float] = {
        (robust.modalities.combination(key), column): what for column in given for key, what in given[column].items()
    }
    for combination, column in cells:
        if combination not in asked:
            known = ", ".join(map(str, asked))
            raise InputError(f"{column}: {combination} is not among the combinations to measure, which are {known}")
    return cells


def _check_compared(robust: RobustModel, compared: Mapping[str, RobustModel]) -> Mapping[str, RobustModel]:
    for name, other in compared.items():
        if name in get_args(Column) or other.network is robust.network:
            why = "is a column's name" if name in get_args(Column) else "has the same network object; adapt a copy"
            raise InputError(f"compared: {name!r} {why}")
        if other.network_fingerprint() != robust.network_fingerprint():
            raise InputError(f"compared: {name!r} has a network with other weights, so the columns can't be compared")
    return compared


def _around(robust: RobustModel, module: nn.Module) -> Runs:
    """Call another network as the frozen one is called, with the same stand-ins."""
    return module if isinstance(module, FilledNetwork) else robust.filled(module)


def _shown(loader: Iterable[Any], progress: bool) -> Iterator[Any]:
    """Give the batches, and say on stderr how far it is; raise `InputError` where there are none."""
    total = len(loader) if isinstance(loader, Sized) else None
    shows, start, done = progress and sys.stderr.isatty(), time.monotonic(), 0
    for done, batch in enumerate(loader, 1):
        yield batch
        if shows:
            left = f", {(time.monotonic() - start) / done * (total - done):.0f} s left" if total else ""
            sys.stderr.write(f"\rmeasured {done}{f'/{total}' if total else ''} batches{left}\x1b[K")
            sys.stderr.flush()
    if shows:
        sys.stderr.write("\r\x1b[K")
    if not done:
        raise InputError("loader: expected at least one batch, but found none")


def _results(
    robust: RobustModel,
    table: _Table,
    values: Mapping[Cell, float],
    others: Mapping[str, RobustModel],
    seed: int | None,
    title: str,
) -> Results:
    rows: dict[Combination, dict[str, Any]] = {one: {"compared": {}} for one in table.counts}
    for (owner, column), value in values.items():
        row = rows.get(owner, {"compared": {}})
        (row["compared"] if column in others else row)[column] = value
    return Results(
        title=title,
        metric=table.measure.name,
        convention=table.measure.convention,
        higher_is_better=table.measure.higher_is_better,
        unit=table.measure.unit,
        modalities=robust.modalities.spec,
        network=network_facts(robust),
        adapter=adapter_facts(robust),
        compared={name: adapter_facts(other) for name, other in others.items()},
        seed=seed,
        versions=versions(),
        mean_intervals=table.mean_intervals(),
        rows=tuple(
            Row(
                combination=str(one),
                count=table.counts[one],
                not_finite=table.not_finite(one),
                intervals=table.intervals(one),
                reliability=table.reliability(one),
                **rows[one],
            )
            for one in table.counts
        ),
    )


def network_facts(robust: RobustModel) -> NetworkFacts:
    """Name the frozen network of a model, as results do."""
    network = robust.network
    count = robust.plan.network_parameters
    return NetworkFacts(name=name_of(network), fingerprint=robust.network_fingerprint(), num_parameters=count)


def adapter_facts(robust: RobustModel) -> AdapterFacts:
    """Say what adapters a model has, as results do."""
    fill = robust.fill.spec
    return AdapterFacts(
        method=" + ".join(map(words_of, robust.plan.adapters)),
        sharing=robust.sharing,
        fill=fill if isinstance(fill, str) else ", ".join(f"{name}: {kind}" for name, kind in fill.items()),
        num_per_row=robust.plan.parameters_per_row,
        num_rows=len(robust.router.row_names),
        num_total=sum(parameter.numel() for parameter in robust.adapter_parameters().values()),
    )


def versions() -> dict[str, str]:
    """Give the versions that results depend on."""
    try:
        own = version("subsense")
    except PackageNotFoundError:
        own = "not installed"
    return {"python": python_version(), "torch": torch.__version__, "subsense": own}
