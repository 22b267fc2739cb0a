"""Confidence for the examples of a page, calibrated on rows of the test part that the page doesn't show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import subsense as ss
from subsense.recipes.progress import note
from subsense.recipes.run.job import Job

COVERAGE, RISK = 0.9, 0.1
MOST = 256
"""Rows that calibrate, at most."""


@contextmanager
def trusted(job: Job, robust: ss.RobustModel) -> Iterator[tuple[Any, str]]:
    """Give the rows to take examples from, and how confidence was calibrated for them, in a sentence.

    Where the model has its own confidence, or none fits, these are all rows of the test part. Otherwise every second
    one calibrates; the model forgets it afterwards.
    """
    test = job.data.test
    if robust.confidence is not None or (words := _calibrated(job, robust)) is None:
        yield test, ""
        return
    try:
        yield Subset(test, range(0, len(test), 2)), words
    finally:
        robust.confidence = None


def _calibrated(job: Job, robust: ss.RobustModel) -> str | None:
    test = job.data.test
    target = torch.as_tensor(test[0][1])
    if job.data.task == "segmentation" and target.is_floating_point():  # regions, of which a pixel may have several
        return None
    rows = Subset(test, range(1, len(test), 2)[:MOST])
    loader: DataLoader[tuple[Any, Tensor]] = DataLoader(
        rows, job.recipe.evaluate.batch_size, collate_fn=ss.Collate(job.modalities)
    )
    risk = None if target.is_floating_point() else RISK
    try:
        ss.confidence(
            robust, loader, coverage=COVERAGE, risk=risk, combinations=job.recipe.evaluate.combinations,
            ignore_index=job.data.ignore_index, seed=job.recipe.seed,
        )  # fmt: skip
    except ss.InputError as error:
        note(f"the page's examples without calibrated confidence: {error}")
        return None
    abstains = f" and when it abstains ({100 * risk:g} % wrong answers allowed)" if risk else ""
    return (
        f"How sure the adapted network is, what isn't ruled out ({100 * COVERAGE:g} % coverage){abstains} was "
        f"calibrated on {len(rows)} other rows of the test part."
    )
