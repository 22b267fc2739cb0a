"""The arguments that several verbs share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
Root = Annotated[Path | None, typer.Option(help="The folder that holds the data; goes before the recipe's data.root.")]
Output = Annotated[Path | None, typer.Option(help="The folder to write to; goes before the recipe's output.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value of the recipe, such as train.epochs=2. Repeatable."
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Train and measure all columns anew, also those kept from an earlier run."),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON document, and nothing else, to stdout.")]
