"""`subsense ls`: what a recipe can name."""

from __future__ import annotations

from subsense.cli.arguments import Json
from subsense.cli.console import say, say_json

ABOUT_LOSSES = {
    "cross_entropy": "of classes, per pixel too; takes weight, ignore_index, label_smoothing",
    "mse": "mean squared error",
    "l1": "mean absolute error",
    "distill": "distance to the network's own output with everything present; reads no labels",
}


def ls(as_json: Json = False) -> None:
    """List the shipped recipes, and the data sets, networks, methods, losses and metrics that a recipe can name."""
    listing = _listing()
    if as_json:
        say_json(listing)
        return
    for kind, entries in listing.items():
        say(kind, "bold")
        width = max(map(len, entries))
        for name, about in entries.items():
            say(f"  {name:<{width}}  {about}".rstrip())


def _listing() -> dict[str, dict[str, str]]:
    from subsense.adapters import METHODS
    from subsense.data import DATASETS
    from subsense.metrics import METRICS
    from subsense.recipe import LOSSES, shipped_recipes
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
    }


def _about(place: str) -> str:
    """Give the first line that a data set's or network's file says about itself."""
    from importlib import import_module

    return _first_line(import_module(place.partition(":")[0]).__doc__)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
