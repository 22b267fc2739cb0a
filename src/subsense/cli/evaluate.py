"""`subsense evaluate`: what every combination reaches, in a table and in files."""

from __future__ import annotations

from subsense.cli.arguments import Changes, Fresh, Json, Output, RecipeName, Root
from subsense.cli.console import say_json
from subsense.recipes.progress import say


def evaluate(
    recipe: RecipeName,
    root: Root = None,
    output: Output = None,
    fresh: Fresh = False,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Measure what `subsense train` saved, beside the baselines that the recipe asks for.

    What `subsense calibrate` saved has a column of its own; where nothing was trained, it is the adapted one.
    Each baseline is kept as soon as it is measured: stopped and started again, this goes on.
    """
    from subsense.recipes import run as pipeline

    job = pipeline.open_job(recipe, root, output, changes)
    calibrated = pipeline.load_calibrated(job, pipeline.pretrained(job))
    robust = pipeline.load_sets(job, pipeline.pretrained(job)) if pipeline.is_trained(job) else calibrated
    if fresh:
        pipeline.forget(job)
    beside = {"calibrated": calibrated} if pipeline.is_trained(job) and pipeline.is_calibrated(job) else {}
    results = pipeline.measure(job, robust, beside=beside)
    files = pipeline.write_reports(job, robust, results)
    if as_json:
        say_json(results.model_dump(mode="json"))
        return
    say(results)
    say()
    say(f"written to {', '.join(map(str, files))}")
