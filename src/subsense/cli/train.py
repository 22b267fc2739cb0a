"""`subsense train`: the network if need be, then its adapter sets."""

from __future__ import annotations

from typing import Annotated

import typer

from subsense.cli.arguments import Changes, Json, Output, RecipeName, Root
from subsense.cli.console import say_json
from subsense.recipes.progress import is_first, say


def train(
    recipe: RecipeName,
    root: Root = None,
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was stopped, and keep a network that is trained already.")
    ] = False,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Train a recipe's adapter sets, and its network first where it has no checkpoint."""
    from subsense.recipes import run as pipeline

    job = pipeline.open_job(recipe, root, output, changes)
    pipeline.check(job)
    if not resume:
        pipeline.start(job)
    robust = pipeline.adapt_network(job, pipeline.pretrain(job))
    report = pipeline.train_sets(job, robust)
    if not is_first():
        return
    if as_json:
        say_json({"adapters": str(job.adapters), "training": report.as_dict()})
        return
    say(pipeline.describe(job, robust))
    say(f"training  {report}".replace("\n", "\n          "))
    say(f"saved     {job.adapters}")
    say(f"next      subsense evaluate {recipe}")
