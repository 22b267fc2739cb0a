"""`subsense validate`: every fault of a recipe, before anything runs."""

from __future__ import annotations

from typing import Annotated

import typer

from subsense.cli.arguments import Json
from subsense.cli.console import complain, say_json
from subsense.recipes.progress import say


def validate(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE...", help="Recipe files, or names of shipped recipes.")
    ],
    as_json: Json = False,
) -> None:
    """Check recipes and report all their faults at once. Exit code 2 where there is one."""
    faults = {recipe: _faults(recipe) for recipe in recipes}
    if as_json:
        say_json({recipe: {"valid": not found, "faults": found} for recipe, found in faults.items()})
    else:
        _say_faults(faults)
    if any(faults.values()):
        raise typer.Exit(2)


def _faults(recipe: str) -> list[str]:
    from subsense.errors import RecipeError
    from subsense.recipes.reading import load_recipe

    try:
        load_recipe(recipe)
    except RecipeError as error:
        return list(error.faults)
    return []


def _say_faults(faults: dict[str, list[str]]) -> None:
    from subsense.errors import RecipeError

    for recipe, found in faults.items():
        if found:
            complain(RecipeError(recipe, found))
        else:
            say(f"{recipe}: valid")
