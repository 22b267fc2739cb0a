"""`subsense audit`: whether what is missing is read, what is present counts, and data are data."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from subsense.cli.arguments import Changes, Json, Output, RecipeName, Root
from subsense.cli.console import say_json
from subsense.recipes.progress import OUT, say

Part = Annotated[
    Literal["test", "train", "val"], typer.Option("--part", help="The part of the data that is looked at.")
]
WIDEST = 160


def audit(
    recipe: RecipeName,
    root: Root = None,
    output: Output = None,
    part: Part = "test",
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Look for leaks, masks that do nothing, ignored sensors and false data; exit with 1 where anything leaks.

    Audits what `subsense train` or `subsense calibrate` saved, or else the network as it starts.
    """
    from subsense.recipes import run as pipeline

    job = pipeline.open_job(recipe, root, output, changes)
    report = pipeline.audit_recipe(job, part)
    files = pipeline.write_audit(job, report)
    if as_json:
        say_json(report.as_dict())
    else:
        say(report.text(min(max(OUT.width, 80), WIDEST)))
        say()
        say(f"written to {', '.join(map(str, files))}")
    if report.leaks:
        raise typer.Exit(1)
