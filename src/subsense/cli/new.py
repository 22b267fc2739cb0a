"""`subsense new`: a folder with a network, its data, a recipe and a test, to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from subsense.recipes.progress import say


def new(name: Annotated[str, typer.Argument(metavar="NAME", help="Of the folder, its module and its recipe.")]) -> None:
    """Write a folder to begin with: a network, its data, a recipe and a test that run as they stand."""
    from subsense.recipes.starter import start

    for path in start(name):
        say(path)
    say(f"next: cd {name}; subsense train {name}.yaml; subsense evaluate {name}.yaml")
