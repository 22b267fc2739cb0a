"""A recipe: one YAML file that says which network, which data, how it is adapted, trained and evaluated.

There is one syntax: no includes, no interpolation, no second place for defaults. A file is checked as a whole, and all
its faults are reported together, each with its line and key, what was expected, what was found, and the near miss.
"""

from subsense.recipe.losses import LOSSES, cross_entropy
from subsense.recipe.parts import (
    AdaptPart,
    Contender,
    DataPart,
    DeclaredClass,
    EvaluatePart,
    Fit,
    Loss,
    Method,
    NetworkPart,
    Recipe,
    TrainPart,
)
from subsense.recipe.reading import find_recipe, load_recipe, parse_recipe, shipped_recipes
from subsense.recipe.values import FILLS

__all__ = [
    "FILLS",
    "LOSSES",
    "AdaptPart",
    "Contender",
    "DataPart",
    "DeclaredClass",
    "EvaluatePart",
    "Fit",
    "Loss",
    "Method",
    "NetworkPart",
    "Recipe",
    "TrainPart",
    "cross_entropy",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
    "shipped_recipes",
]
