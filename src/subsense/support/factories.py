"""Find and call what makes a network or a data set, by the place of its code: `package.module:name`.

The zoo and the data sets are tables of such places, so that listing them imports nothing heavy.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from subsense.errors import FactoryError, SubsenseError, closest

Factory = Callable[..., Any]


def find(name: str, table: Mapping[str, str], what: str, error: type[SubsenseError] = FactoryError) -> Factory:
    """Look up `name` in a table of places and import what stands there.

    Raises:
        error: where the table has no such name; says which there are, and the nearest.

    >>> find("tensor", {"tensor": "torch:tensor"}, "function", SubsenseError)([1.5])
    tensor([1.5000])
    """
    if name not in table:
        raise error(f"Expected a {what} among {', '.join(sorted(table))}, but got {name!r}.{closest(name, table)}")
    return import_factory(table[name])


def import_factory(place: str) -> Factory:
    """Import the callable at `package.module:name`.

    Raises:
        FactoryError: the text has another form, there is no such module, or nothing callable of that name in it.
            An error inside the module passes as it is.

    >>> import_factory("math:sqrt")(4.0)
    2.0
    """
    module_name, colon, name = place.partition(":")
    if not (module_name and colon and name):
        raise FactoryError(f"Expected a factory written 'package.module:name', but got {place!r}.")
    module = _import(module_name)
    found: Factory | None = getattr(module, name, None)
    if not callable(found):
        raise FactoryError(f"Expected a callable {name!r} in module {module_name!r}.{closest(name, vars(module))}")
    return found


def call_factory(
    place: str, options: Mapping[str, Any], error: type[SubsenseError] = FactoryError, advice: str = ""
) -> Any:
    """Import a factory and call it; what it raises becomes an error that names it and the line.

    Raises:
        error: the factory raised what is no error of subsense; `advice` ends the message.

    >>> call_factory("math:sqrt", {"x": 4.0})
    Traceback (most recent call last):
    subsense.errors.FactoryError: math:sqrt raised TypeError: math.sqrt() takes no keyword arguments.
    """
    factory = import_factory(place)
    try:
        return factory(**options)
    except SubsenseError:
        raise
    except Exception as raised:
        last = traceback.extract_tb(raised.__traceback__)[-1]
        where = "" if last.filename == __file__ else f" ({Path(last.filename).name}, line {last.lineno})"
        raise error(f"{place} raised {type(raised).__name__}: {raised}{where}.{advice}") from raised


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise FactoryError(f"Expected a module {name!r}, but there is none that Python can import here.") from error


def check_options(
    name: str, factory: Factory, options: Mapping[str, Any], error: type[SubsenseError] = FactoryError
) -> None:
    """Refuse options that `factory` does not take, before it is called.

    Raises:
        error: names the option, those there are, and the nearest.
    """
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            known = ", ".join(parameters) or "none"
            raise error(f"{name}: unknown option {option!r}; it takes {known}.{closest(option, parameters)}")
