"""`subsense plan`: where adapters would act, before anything is trained."""

from __future__ import annotations

from subsense.cli.arguments import Changes, Json, RecipeName
from subsense.cli.console import say_json
from subsense.recipes.progress import say


def plan(recipe: RecipeName, changes: Changes = None, as_json: Json = False) -> None:
    """Show where adapters would act in a recipe's network, and what is out of reach. Needs neither data nor weights."""
    from subsense.recipes.reading import load_recipe
    from subsense.recipes.run import plan_network

    planned = plan_network(load_recipe(recipe, changes or ()))
    if not as_json:
        say(planned)
        return
    sites = [
        {
            "module": site.key,
            "class": site.layer.class_name,
            "adapter": site.label,
            "parameters": site.num_parameters,
            "common_parameters": site.num_common,
        }
        for site in planned.sites
    ]
    say_json({
        "sites": sites,
        "parameters_per_row": planned.parameters_per_row,
        "common_parameters": planned.common_parameters,
        "network_parameters": planned.network_parameters,
        "out_of_reach": dict(planned.out_of_reach),
    })  # fmt: skip
