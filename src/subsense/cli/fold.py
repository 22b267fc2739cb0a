"""`subsense fold`: an adapter set as an ordinary network, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subsense.cli.arguments import Changes, RecipeName, Root
from subsense.recipes.progress import say

SUFFIXES = (".safetensors", ".onnx", ".pt2")


def fold(
    recipe: RecipeName,
    combination: Annotated[str, typer.Argument(help="What is present, such as rgb+depth.")],
    file: Annotated[
        Path,
        typer.Option("--output", "-o", help="File to write: .safetensors (state dict), .onnx, or .pt2 (torch.export)."),
    ],
    drop_absent: Annotated[
        bool,
        typer.Option(
            "--drop-absent",
            help="Leave out what serves only what is missing; takes what is present, any number of rows.",
        ),
    ] = False,
    root: Root = None,
    run: Annotated[
        Path | None, typer.Option(help="The folder that `subsense train` wrote to, if not the recipe's.")
    ] = None,
    changes: Changes = None,
) -> None:
    """Fold a combination's adapter set into a copy of the network, and write that.

    An exported network takes one row at a time, in the network's own way of being called; with --drop-absent any
    number of rows of what is present.
    """
    if file.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{file}: expected a file ending in {', '.join(SUFFIXES)}", param_hint="--output")
    if drop_absent and file.suffix == ".safetensors":
        raise typer.BadParameter(
            f"{file}: without what is absent it is another network, whose code must be in the file; "
            "expected a file ending in .pt2 or .onnx",
            param_hint="--output",
        )
    from subsense.recipes import run as pipeline

    job = pipeline.open_job(recipe, root, run, changes)
    robust = pipeline.load_sets(job, pipeline.pretrained(job))
    pipeline.write_folded(job, robust, combination, file, drop_absent)
    say(file)
