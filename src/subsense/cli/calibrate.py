"""`subsense calibrate`: the network if need be, then its adapter sets in closed form, without labels."""

from __future__ import annotations

from subsense.cli.arguments import Changes, Json, Output, RecipeName, Root
from subsense.cli.console import say_json
from subsense.recipes.progress import say


def calibrate(
    recipe: RecipeName, root: Root = None, output: Output = None, changes: Changes = None, as_json: Json = False
) -> None:
    """Solve a recipe's adapter sets in closed form, in seconds and without labels; train its network if need be.

    The sets are kept beside those that `subsense train` saves; `subsense evaluate` measures both.
    """
    from subsense.recipes import run as pipeline

    job = pipeline.open_job(recipe, root, output, changes)
    pipeline.check(job)
    pipeline.ensure_network(job)
    robust, report = pipeline.calibrate_sets(job, pipeline.pretrained(job))
    if as_json:
        say_json({"adapters": str(job.calibrated), "calibration": report.as_dict()})
        return
    say(pipeline.describe(job, robust))
    say(report)
    say(f"saved     {job.calibrated}")
    say(f"next      subsense evaluate {recipe}")
