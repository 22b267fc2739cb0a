"""Measuring a job's network with its adapter sets, and the baselines to compare with."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from torch import nn

import subsense as ss
from subsense import metrics
from subsense.cli.console import note
from subsense.cli.pipeline.job import Job
from subsense.cli.pipeline.naming import fresh_network
from subsense.cli.pipeline.training import fit_settings
from subsense.results import Column


def measure(
    job: Job, robust: ss.RobustModel, columns: Collection[Column] = ("pretrained", "adapted"), compare: bool = True
) -> ss.Results:
    """Measure what the recipe asks for; the baselines to compare with are trained first."""
    part = job.recipe.evaluate
    return ss.evaluate(
        robust,
        job.test_batches(),
        metric=metrics.build(part.metric or job.data.metric, ignore_index=job.data.ignore_index),
        combinations=part.combinations,
        columns=columns,
        dedicated=train_dedicated(job, robust) if compare else None,
        finetuned=finetune(job, robust) if compare else None,
        seed=job.recipe.seed,
        title=job.data.name,
    )


def train_dedicated(job: Job, robust: ss.RobustModel) -> dict[str, nn.Module]:
    """Train a network for each combination that the recipe wants one for."""
    asked, part = job.recipe.evaluate.dedicated, job.recipe.pretrain
    if asked is None or part is None:
        return {}
    chosen = robust.modalities.select(asked)
    networks = {}
    for number, combination in enumerate(chosen, 1):
        note(f"training a network for {combination} alone ({number} of {len(chosen)}), {part.epochs} epochs")
        settings = fit_settings(job, part)
        make = partial(fresh_network, job.recipe)
        networks[str(combination)] = ss.train_dedicated(robust, make, combination=combination, **settings)
    return networks


def finetune(job: Job, robust: ss.RobustModel) -> nn.Module | None:
    """Fine-tune a copy of the whole network with modality dropout, where the recipe wants it."""
    part = job.recipe.evaluate.finetuned
    if part is None:
        return None
    note(f"fine-tuning the whole network with modality dropout, {part.epochs} epochs")
    return ss.finetune(robust, **fit_settings(job, part))
