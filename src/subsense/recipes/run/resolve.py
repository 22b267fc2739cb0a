"""From what a recipe names to the thing: network, loss, methods, layer classes, call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import subsense as ss
from subsense import zoo
from subsense.adapters import Adapter
from subsense.adapters.layers.declare import DECLARATIONS, Declaration
from subsense.modalities.calling import CallSpec
from subsense.recipes.losses import LOSSES
from subsense.recipes.schema import Loss, Recipe
from subsense.support.factories import call_factory, import_factory


def fresh_network(recipe: Recipe) -> nn.Module:
    """Make the recipe's network with weights drawn from its seed; torch's own generator is left as it was."""
    part = recipe.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if part.name in zoo.NETWORKS:
            return zoo.build(part.name, **part.options)
        made = call_factory(part.name, part.options)
    if not isinstance(made, nn.Module):
        raise ss.RecipeError(part.name, [f"expected it to return a torch.nn.Module, but found {type(made).__name__}"])
    return made


def make_loss(loss: Loss) -> Any:
    """Make the loss that a recipe names."""
    options = {name: make_loss(value) if isinstance(value, Loss) else value for name, value in loss.options.items()}
    return call_factory(LOSSES.get(loss.name, loss.name), options)


def make_methods(recipe: Recipe) -> list[Adapter]:
    """Make the methods that a recipe names."""
    return [one.make() for one in recipe.adapt.method]


def load_adapters(recipe: Recipe, folder: Path, network: nn.Module) -> ss.RobustModel:
    """Load adapter sets, with what of a recipe is no plain data: the function that calls the network, its methods."""
    call = make_call(recipe)
    own = [type(method) for method in make_methods(recipe)]
    return ss.load(folder, network, call=call if callable(call) else None, methods=own)


def make_layers(recipe: Recipe) -> list[Declaration]:
    """Make the declarations of layer classes that a recipe gives."""
    return [
        DECLARATIONS[one.name](**{**one.options, "cls": import_factory(one.options["cls"])})
        for one in recipe.adapt.layers
    ]


def make_call(recipe: Recipe) -> CallSpec:
    """Give how the network is called, a function imported where the recipe names one."""
    call = recipe.adapt.call
    return import_factory(call) if isinstance(call, str) and ":" in call else call
