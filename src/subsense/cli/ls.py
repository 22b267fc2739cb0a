"""`subsense ls`: what a recipe can name."""

from __future__ import annotations

from typing import Annotated

import typer

from subsense.cli.arguments import Json
from subsense.cli.console import say_json
from subsense.errors import closest
from subsense.recipes.progress import say

KINDS = {
    "recipes": "recipes",
    "data": "data sets",
    "networks": "networks",
    "methods": "methods",
    "losses": "losses",
    "metrics": "metrics",
    "degradations": "degradations",
}
"""What to ask for -> the heading it stands under."""

ABOUT_LOSSES = {
    "cross_entropy": "of classes, per pixel too; takes weight, ignore_index, label_smoothing",
    "mse": "mean squared error",
    "l1": "mean absolute error",
    "distill": "distance to the network's own output with everything present; reads no labels",
}


Kind = Annotated[str, typer.Argument(metavar="[KIND]", help=f"Only these: {', '.join(KINDS)}.")]
Name = Annotated[str, typer.Argument(metavar="[NAME]", help="A data set: say what it is and what its folder holds.")]


def ls(kind: Kind = "", name: Name = "", as_json: Json = False) -> None:
    """List the shipped recipes, and what they name: data sets, networks, methods, losses, metrics, degradations.

    `subsense ls data NAME` says of a data set what it is, what its folder holds, and where it comes from.
    """
    if kind and kind not in KINDS:
        raise typer.BadParameter(f"expected one of {', '.join(KINDS)}, but found {kind!r}.{closest(kind, KINDS)}")
    if name and kind != "data":
        raise typer.BadParameter(f"only data sets have more to tell: subsense ls data NAME, not ls {kind} {name}")
    if name:
        _tell(name, as_json)
        return
    listing = _listing()
    chosen = {KINDS[kind]: listing[KINDS[kind]]} if kind else listing
    say_json(chosen) if as_json else _show(chosen)


def _show(listing: dict[str, dict[str, str]]) -> None:
    for kind, entries in listing.items():
        say(kind, "bold")
        width = max(map(len, entries))
        for name, about in entries.items():
            say(f"  {name:<{width}}  {about}".rstrip())


def _tell(name: str, as_json: bool) -> None:
    """Write what is known of a data set without its files."""
    from subsense.data import describe, explain

    description = describe(name)
    if as_json:
        say_json(vars(description) | {"about": explain(name)})
        return
    facts = {
        "modalities": ", ".join(f"{modality} {axes!r}" for modality, axes in description.modalities.items()),
        "task": description.task,
        "classes": f"{description.num_classes}: {', '.join(description.class_names)}",
        "measure": description.metric,
        "source": description.source,
        "licence": description.licence,
        "cite": description.citation,
    }
    say(description.name, "bold")
    for fact, text in facts.items():
        if fact != "classes" or description.class_names:
            say(f"  {fact:<10}  {text}")
    say()
    say(explain(name))


def _listing() -> dict[str, dict[str, str]]:
    from subsense.adapters import METHODS
    from subsense.data import DATASETS
    from subsense.degradation import DEGRADATIONS
    from subsense.evaluation.metrics import METRICS
    from subsense.recipes.losses import LOSSES
    from subsense.recipes.reading import shipped_recipes
    from subsense.zoo import NETWORKS

    return {
        "recipes": {
            name: _first_line(path.read_text("utf-8")).lstrip("# ") for name, path in shipped_recipes().items()
        },
        "data sets": {name: _about(place) for name, place in DATASETS.items()},
        "networks": {name: _about(place) for name, place in NETWORKS.items()},
        "methods": {name: _first_line(method.__doc__) for name, method in METHODS.items()},
        "losses": {name: ABOUT_LOSSES[name] for name in LOSSES},
        "metrics": dict(METRICS),
        "degradations": {name: _first_line(one.change.__doc__) for name, one in DEGRADATIONS.items()},
    }


def _about(place: str) -> str:
    """Give the first line that a data set's or network's file says about itself."""
    from importlib import import_module

    return _first_line(import_module(place.partition(":")[0]).__doc__)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
