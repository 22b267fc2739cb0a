"""`subsense compare`: methods side by side with the baselines, in one table."""

from __future__ import annotations

from subsense.cli.arguments import Changes, Fresh, Json, Output, RecipeName, Root
from subsense.cli.console import say_json
from subsense.recipes.progress import say


def compare(
    recipe: RecipeName,
    root: Root = None,
    output: Output = None,
    fresh: Fresh = False,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Train and measure the methods of a recipe's `compare`, beside the pretrained, dedicated and fine-tuned networks.

    The network is trained first where there is none. Each finished cell of the table is kept: stopped at any moment and
    started again, it goes on and ends with the same table.
    """
    from subsense.recipes import run as pipeline

    job = pipeline.open_job(recipe, root, output, changes)
    pipeline.check(job)
    pipeline.check_comparison(job)
    if fresh:
        pipeline.forget(job)
    pipeline.ensure_network(job)
    results = pipeline.compare(job)
    files = pipeline.write_comparison(job, results)
    if as_json:
        say_json(results.model_dump(mode="json"))
        return
    say(results)
    say()
    say(f"written to {', '.join(map(str, files))}")
