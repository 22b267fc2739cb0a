"""`subsense fold`: an adapter set as an ordinary network, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subsense.cli.arguments import Changes, RecipeName, Root
from subsense.cli.console import say

SUFFIXES = (".safetensors", ".onnx", ".pt2")


def fold(
    recipe: RecipeName,
    combination: Annotated[str, typer.Argument(help="What is present, such as rgb+depth.")],
    file: Annotated[
        Path,
        typer.Option("--output", "-o", help="File to write: .safetensors (state dict), .onnx, or .pt2 (torch.export)."),
    ],
    root: Root = None,
    run: Annotated[
        Path | None, typer.Option(help="The folder that `subsense train` wrote to, if not the recipe's.")
    ] = None,
    changes: Changes = None,
) -> None:
    """Fold a combination's adapter set into a copy of the network, and write that.

    An exported network takes one row at a time, in the network's own way of being called.
    """
    if file.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{file}: expected a file ending in {', '.join(SUFFIXES)}", param_hint="--output")
    from subsense.cli import pipeline

    job = pipeline.open_job(recipe, root, run, changes)
    robust = pipeline.load_sets(job, pipeline.pretrained(job))
    pipeline.write_folded(job, robust, combination, file)
    say(file)
