"""Explaining faults: each in one sentence with its line, its key, what was expected and what was found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import get_args

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from subsense.errors import closest
from subsense.recipes.schema import Recipe
from subsense.recipes.values import short, unknown

Key = tuple[int | str, ...]


def explain(fault: ErrorDetails, lines: Mapping[Key, int]) -> str:
    """Say one fault in one sentence: line, key, what was expected, what was found, near miss."""
    line = line_of(fault["loc"], lines)
    place = "" if line is None else f"line {line}, "
    return f"{place}{'.'.join(map(str, fault['loc']))}: {_complaint(fault)}"


def line_of(key: Key, lines: Mapping[Key, int]) -> int | None:
    """Find the line of a key, or of what it should stand in."""
    return next((lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in lines), None)


def lines_of(node: yaml.Node | None, key: Key = ()) -> Iterator[tuple[Key, int]]:
    """Walk a document and give the line of every key, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield (*key, name.value), name.start_mark.line + 1
            yield from lines_of(value, (*key, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1
            yield from lines_of(value, (*key, index))


def _complaint(fault: ErrorDetails) -> str:
    found = fault["input"]
    match fault["type"]:
        case "fault":
            return fault["msg"]
        case "missing":
            return "missing; this key is needed"
        case "extra_forbidden":
            return unknown("key", fault["loc"][-1], _keys_beside(fault["loc"]))
        case "literal_error":
            expected = fault["ctx"]["expected"]
            near = closest(str(found), re.findall("'(.*?)'", expected))
            return f"expected {expected}, but found {short(found)}.{near}"
    expected = fault["msg"].replace("Input should be", "expected it to be")
    return f"{expected}, but found {short(found)}"


def _keys_beside(key: Key) -> list[str]:
    """Give the keys that the schema has at the place of an unknown one."""
    part: type[BaseModel] | None = Recipe
    for name in key[:-1]:
        if part is not None and name in part.model_fields:
            part = part_in(part.model_fields[str(name)].annotation)
    return list(part.model_fields) if part else []


def part_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for part in map(part_in, get_args(annotation)) if part), None)
