"""What a monitor is worth in the corruption experiment: it alone knows what is wrong, and from the input."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

import subsense as ss
from subsense.modalities.loaders import available, moved, split_labelled, take
from subsense.model.scores import select_scores
from subsense.recipes.progress import note
from subsense.recipes.run.columns import Bench
from subsense.support.modules import device_of, evaluating

if TYPE_CHECKING:
    from subsense.recipes.experiments.corrupted import Corrupted

FALSE_ALARMS = 0.01


def learn(bench: Bench, robust: ss.RobustModel, kinds: Collection[str]) -> ss.Monitor:
    """Learn a monitor from the training part, its choices by some kinds; as few false alarms as so many rows can tell.

    Raises:
        InputError: as `Monitor`.
    """
    note(f"corruption: learning what is healthy, choosing by {', '.join(kinds)}")
    rate = max(FALSE_ALARMS, 1 / (min(len(bench.job.data.train), 1024) + 1))
    loader = bench.job.batches(bench.job.recipe.evaluate.batch_size)
    return ss.Monitor(robust, loader, false_alarms=rate, kinds=kinds, select=select_scores, seed=bench.job.recipe.seed)


def watched(
    work: Corrupted, loader: Iterable[Any], combinations: Sequence[ss.Combination]
) -> dict[str, dict[str, float]]:
    """Measure each combination where nothing but the monitors says how good the input is: combination -> sets -> value.

    A combination is measured on the rows that have all of it, and what else they have is withheld, as in `evaluate`.
    """
    models = {"plain": work.plain, "faded": work.faded}
    modalities, metric = work.bench.robust.modalities, work.bench.metric
    measures = {(str(one), name): metric.fresh() for one in combinations for name in models}
    measured: set[str] = set()
    with evaluating(*models.values()), torch.no_grad():
        for batch in loader:
            inputs, target = split_labelled(batch)
            has = available(modalities, inputs)
            values = {name: inputs[name] for name in modalities if inputs.get(name) is not None}
            for combination in combinations:
                wanted = modalities.present(combination)
                rows = has[:, wanted].all(1).nonzero().flatten()
                if not len(rows):
                    continue
                measured.add(str(combination))
                given = {**take(values, rows, len(has), "inputs"), "present": wanted.expand(len(rows), -1)}
                truth = take(target, rows, len(has))
                for name, robust in models.items():
                    device = device_of(robust.network)
                    scores = select_scores(robust(moved(given, device), present="auto"))
                    measures[str(combination), name].update(scores, truth.to(device))
    return {one: {name: measures[one, name].compute() for name in models} for one in map(str, combinations)
            if one in measured}  # fmt: skip


def alarms(robust: ss.RobustModel, loader: Iterable[Any]) -> tuple[int, int]:
    """Count the rows and modalities of healthy batches that are doubted, and all of them that are watched."""
    assert robust.monitor is not None
    columns = [name in robust.monitor.sensors for name in robust.modalities]
    rung = looked = 0
    for batch in loader:
        inputs, _ = split_labelled(batch)
        has = available(robust.modalities, inputs)
        given: Mapping[str, Any] = {name: inputs.get(name) for name in robust.modalities}
        rung += int(robust.monitor(given, has).doubted[:, columns].sum())
        looked += int(has[:, columns].sum())
    return rung, looked


def told(rung: int, looked: int, asked: float) -> str:
    """Say how often healthy input was doubted, with the interval in which the rate lies.

    >>> told(17, 1720, 0.01)
    '1 % asked; 17 of 1720 healthy rows and modalities of the test part: 1.0 % (95 %: 0.6 to 1.6)'
    """
    from scipy.stats import binomtest

    low, high = binomtest(rung, looked).proportion_ci(0.95, "wilson")
    return (
        f"{100 * asked:.2g} % asked; {rung} of {looked} healthy rows and modalities of the test part: "
        f"{100 * rung / looked:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"
    )
