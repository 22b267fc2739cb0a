"""`subsense cp`: a shipped recipe becomes the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subsense.cli.arguments import RecipeName
from subsense.recipes.progress import say


def cp(
    recipe: RecipeName,
    path: Annotated[Path | None, typer.Argument(help="File or folder to copy to. By default RECIPE.yaml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Copy a shipped recipe, to edit and own it."""
    from subsense.recipes.reading import find_recipe

    source = find_recipe(recipe)
    target = path or Path(source.name)
    if target.is_dir():
        target /= source.name
    if target.exists() and not force:
        raise typer.BadParameter(f"{target} is there already; give another PATH, or --force to overwrite it")
    text = source.read_text("utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
    say(target)
