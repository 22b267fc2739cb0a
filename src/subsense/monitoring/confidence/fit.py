"""`confidence`: find out, from rows with known answers, how far a network can be trusted with each combination."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError
from subsense.modalities import Combination
from subsense.modalities.declaration import Wanted
from subsense.model.confidence import Confidence, Task, Trust, log_probabilities
from subsense.model.robust import RobustModel
from subsense.model.scores import select_scores
from subsense.monitoring.confidence.collect import Reader, Sample, collect
from subsense.monitoring.confidence.limits import fewest_rows, find_least, find_least_of_pixels, find_limit
from subsense.monitoring.confidence.temperature import fit_temperatures


def confidence(
    robust: RobustModel,
    loader: Iterable[Any],
    *,
    coverage: float = 0.9,
    risk: float | None = None,
    certainty: float = 0.9,
    combinations: Wanted = "all",
    ignore_index: int | None = None,
    select: Callable[[Any], Tensor] = select_scores,
    pixels: int = 1024,
    seed: int = 0,
) -> Confidence:
    """Calibrate how far outputs can be trusted, for each combination by itself; `robust.predict` then says it.

    The rows must be new to the network and to the adapter sets, and like those to come (exchangeable: another order
    would be as likely). Then, for each combination, a set holds the truth with probability `coverage` or slightly more
    (Mondrian split conformal prediction; for several positions in a row, such as pixels, conformal risk control of
    their share). Sets are of the classes whose probability isn't too low, so where the network is right more often than
    `coverage` asks for, some are empty. Values get intervals of one width for each combination. Temperatures (Guo et
    al., arXiv 1706.04599) make `confidence` mean what it says; neither sets nor abstention depend on them.

    Args:
        robust: the network with its adapter sets; gets the result as ``robust.confidence``, and `subsense.save` keeps
            it.
        loader: batches ``(inputs, target)``, as for `subsense.evaluate`; targets are class indices, or values.
        coverage: the share of rows (or positions) whose set is to hold the truth.
        risk: the share of wrong answers allowed among those that aren't abstained from; None: it abstains from NaN
            alone. Of pixels it is what was seen, without a promise.
        certainty: of keeping to `risk`, over the draw of these rows.
        combinations: ``"all"``, the complete one included, or those to calibrate.
        ignore_index: the label of positions that don't count.
        select: takes the scores out of the network's output.
        pixels: of more positions in a row so many are drawn; memory is rows x combinations x classes x these.
        seed: of what is drawn.

    Returns:
        The numbers of each combination, which print as a table.

    Raises:
        InputError: rates that are none, targets that don't fit, a combination with too few rows for the coverage.
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
    >>> robust.mark_trained(robust.combinations)  # by `train`, were this more than an example
    >>> batch = {"left": torch.randn(64, 4), "right": torch.randn(64, 6)}
    >>> trusted = ss.confidence(robust, [(batch, torch.randint(3, (64,)))], coverage=0.8)
    >>> [trust.combination for trust in trusted.trusts]
    ['left', 'right', 'left+right']
    >>> prediction = robust.predict({"left": torch.randn(2, 4)})
    >>> prediction.set.shape, prediction.served
    (torch.Size([2, 3]), ('left', 'left'))
    """
    _check_rates(coverage=coverage, risk=risk, certainty=certainty)
    asked = robust.modalities.select(combinations, complete=True)
    task, samples = collect(robust, loader, asked, Reader(select, ignore_index, pixels, seed))
    if task == "values" and risk is not None:
        raise InputError("confidence: `risk` needs classes; of values only `coverage` can be asked, by intervals")
    _check_rows(samples, coverage)
    temperatures, shared = _temperatures(robust, task, samples)
    trusts = [
        _trust(one, task, sample, temperatures.get(one, 1.0), coverage, risk, certainty)
        for one, sample in samples.items()
    ]
    found = Confidence(
        task=task,
        coverage=coverage,
        risk=risk,
        certainty=certainty,
        ignore_index=ignore_index,
        log_temperature=shared,
        trusts=tuple(trusts),
    )
    robust.confidence = found
    return found


def _check_rates(**rates: float | None) -> None:
    for name, rate in rates.items():
        if rate is not None and not 0 < rate < 1:
            raise InputError(f"confidence: expected {name} between 0 and 1, but found {rate}")


def _check_rows(samples: dict[Combination, Sample], coverage: float) -> None:
    needed = fewest_rows(coverage)
    for combination, sample in samples.items():
        if (found := int(sample.counted.any(1).sum())) < needed:
            raise InputError(
                f"confidence: coverage {coverage:g} needs at least {needed} rows of each combination, but "
                f"{combination} has {found}; ask for less coverage, pass more rows, or leave it out: combinations=[...]"
            )


def _temperatures(
    robust: RobustModel, task: Task, samples: dict[Combination, Sample]
) -> tuple[dict[Combination, float], dict[str, float]]:
    if task == "values":
        return {}, {}
    flat = {
        tuple(one): (sample.scores.movedim(1, 2)[sample.counted], sample.target[sample.counted])
        for one, sample in samples.items()
    }
    found, shared = fit_temperatures(flat, robust.modalities.names)
    return {one: found[tuple(one)] for one in samples}, shared


def surprises(task: Task, sample: Sample) -> Tensor:
    """Give how far the truth is from what was said (row, position): -log p of its class, or the distance to its value.

    Infinite where the scores of a class are NaN or infinite.
    """
    if task == "values":
        return (sample.scores - sample.target).abs()
    logs, finite = log_probabilities(sample.scores)
    return torch.where(finite, -logs.gather(1, sample.target[:, None])[:, 0], math.inf)


def _trust(
    combination: Combination,
    task: Task,
    sample: Sample,
    temperature: float,
    coverage: float,
    risk: float | None,
    certainty: float,
) -> Trust:
    rows = int(sample.counted.any(1).sum())
    limit = find_limit(surprises(task, sample), sample.counted, coverage)
    if task == "values":
        return Trust(combination=str(combination), task=task, num_rows=rows, limit=limit)
    logs, finite = log_probabilities(sample.scores)
    best, value = logs.max(1)
    sure, wrong = torch.where(finite, best.exp(), -1.0), (value != sample.target) | ~finite
    least = 0.0
    if risk is not None and sample.target.shape[1] == 1:
        counted = sample.counted[:, 0]
        least = find_least(sure[:, 0][counted], wrong[:, 0][counted], risk, certainty)
    elif risk is not None:
        least = find_least_of_pixels(sure, wrong, sample.counted, risk)
    return Trust(combination=str(combination), task=task, num_rows=rows, temperature=temperature,
                 limit=limit, least=least)  # fmt: skip
