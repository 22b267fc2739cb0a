"""From a file, or the name of a shipped recipe, to a checked `Recipe`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from subsense.errors import RecipeError
from subsense.recipes.faults import explain, line_of, lines_of
from subsense.recipes.schema import Recipe
from subsense.recipes.values import short, unknown


class _Loader(yaml.SafeLoader):
    """Read YAML with the number format of YAML 1.2 (``1e-2`` is a number), and refuse a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+|[-+]?\.\d+[eE][-+]?\d+"), list("-+.0123456789")
)


@cache
def shipped_recipes() -> dict[str, Path]:
    """Give the recipes that come with subsense, by name.

    >>> "digits" in shipped_recipes()
    True
    """
    folder = Path(str(resources.files("subsense") / "recipes" / "shipped"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(source: str | Path) -> Path:
    """Find a recipe: a shipped one's name, or else a file.

    Raises:
        RecipeError: neither; names the nearest shipped one.
    """
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    if Path(source).is_file():
        return Path(source)
    raise RecipeError(str(source), [f"no such file, and {unknown('shipped recipe', str(source), shipped)}"])


def load_recipe(source: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe file, or a shipped recipe by name.

    Args:
        source: a path, or a name of `shipped_recipes`.
        changes: ``key.path=value`` each, with the value as it would stand in the file: ``"train.epochs=2"``.

    Raises:
        RecipeError: with all the faults of the file in `.faults`.

    >>> load_recipe("digits").network.name
    'digits-transformer'
    """
    path = find_recipe(source)
    return parse_recipe(_read(path), str(source), changes)


def parse_recipe(text: str, source: str = "recipe", changes: Iterable[str] = ()) -> Recipe:
    """Read and check the text of a recipe; `source` is what messages call it. Raise as `load_recipe` does."""
    try:
        content = yaml.load(text, _Loader)
        lines = dict(lines_of(yaml.compose(text, _Loader)))
    except yaml.YAMLError as error:
        raise RecipeError(source, [f"not YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise RecipeError(source, [f"expected `key: value` lines, but found {short(content)}"])
    for change in changes:
        _change(content, change, source)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        faults = sorted(error.errors(include_url=False), key=lambda fault: line_of(fault["loc"], lines) or 0)
        raise RecipeError(source, [explain(fault, lines) for fault in faults]) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), [f"cannot be read: {error}"]) from None


def _change(content: dict[str, Any], change: str, source: str) -> None:
    """Set one value in place, as if the file said so."""
    key, equals, text = change.partition("=")
    *parts, last = key.split(".")
    if not equals or not all([*parts, last]):
        raise RecipeError(source, [f"--set {change}: expected key.path=value, such as train.epochs=2"])
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(source, [f"--set {change}: not YAML: {error}"]) from None
    for part in parts:
        group = content.setdefault(part, {})
        if not isinstance(group, dict):
            raise RecipeError(source, [f"--set {change}: {part} is no group of keys, but {short(group)}"])
        content = group
    content[last] = value
