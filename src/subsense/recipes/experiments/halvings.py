"""Coverage over many halvings of the test part: what conformal sets promise is a mean over the draw of the rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import subsense as ss
from subsense.model.scores import select_scores
from subsense.monitoring.confidence.collect import Reader, collect
from subsense.monitoring.confidence.fit import surprises
from subsense.monitoring.confidence.limits import fewest_rows, find_limit
from subsense.recipes.run.job import Job

TIMES = 200
PIXELS = 1024


def mean_coverage(job: Job, robust: ss.RobustModel, coverage: float, times: int = TIMES) -> dict[str, float]:
    """Calibrate on one half of the test part and count on the other, many times; give the mean of each combination.

    Left out are combinations of which too few rows have all.
    """
    loader = DataLoader(job.data.test, job.recipe.evaluate.batch_size, collate_fn=ss.Collate(job.modalities))
    asked = robust.modalities.select(job.recipe.evaluate.combinations, complete=True)
    reader = Reader(select_scores, job.data.ignore_index, PIXELS, job.recipe.seed)
    task, samples = collect(robust, loader, asked, reader)
    enough = {one: some for one, some in samples.items() if len(some.target) >= 2 * fewest_rows(coverage)}
    return {str(one): _mean_coverage(surprises(task, some), some.counted, coverage, times, job.recipe.seed)
            for one, some in enough.items()}  # fmt: skip


def _mean_coverage(losses: Tensor, counted: Tensor, coverage: float, times: int, seed: int) -> float:
    """Give the mean share that is covered, rows counting alike.

    Args:
        losses: (row, position).
        counted: bool (row, position).
    """
    generator, found = torch.Generator().manual_seed(seed), []
    rows = counted.any(1).nonzero().flatten()
    for _ in range(times):
        drawn = rows[torch.randperm(len(rows), generator=generator)]
        first, second = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        inside = (losses[second] <= find_limit(losses[first], counted[first], coverage)) & counted[second]
        found.append(float((inside.sum(1) / counted[second].sum(1)).double().mean()))
    return sum(found) / times
