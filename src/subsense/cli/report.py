"""`subsense report`: a results file as a table, a picture or a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subsense.recipes.progress import say

SUFFIXES = (".md", ".csv", ".tex", ".png", ".html")


def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.json", help="What `subsense evaluate` wrote.")],
    output: Annotated[
        list[Path], typer.Option("--output", "-o", help="File to write: .md, .csv, .tex, .png or .html. Repeatable.")
    ],
) -> None:
    """Write results as Markdown, CSV, LaTeX, a picture, or one self-contained page."""
    _check(output)
    from subsense.evaluation import reporting
    from subsense.evaluation.results import Results

    loaded = Results.load(results)
    for path in output:
        reporting.report(loaded, path)
        say(path)


def _check(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise typer.BadParameter(f"{path}: expected a file ending in {', '.join(SUFFIXES)}", param_hint="--output")
