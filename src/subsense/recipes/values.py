"""Single values of a recipe: what they may be, and what is said where they are not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from subsense.degradation import DEGRADATIONS
from subsense.errors import SubsenseError, closest
from subsense.modalities import Modalities
from subsense.modalities.signature import FORMS
from subsense.support.factories import import_factory

Options = dict[str, Any]
CheckedOptions = Annotated[Options, Field(validate_default=True)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


def short(value: object) -> str:
    """Write a value as Python does, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fault(text: str) -> PydanticCustomError:
    """Make what a validator raises, in our own words."""
    return PydanticCustomError("fault", "{text}", {"text": text})


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Say that a name is unknown, what is known, and the near miss."""
    names = sorted(known)
    return f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}.{closest(str(name), names)}"


def name_in(kind: str, table: Collection[str]) -> AfterValidator:
    """Accept a name of `table`."""

    def check(name: str) -> str:
        if name not in table:
            raise fault(unknown(kind, name, table))
        return name

    return AfterValidator(check)


def place_in(kind: str, table: Mapping[str, str]) -> AfterValidator:
    """Accept a name of `table`, or the `package.module:factory` of something that can be imported."""

    def check(name: str) -> str:
        if name not in table and ":" not in name:
            raise fault(f"{unknown(kind, name, table)} Your own is written package.module:factory")
        import_place(table.get(name, name))
        return name

    return AfterValidator(check)


def import_place(place: str) -> Callable[..., Any]:
    """Import what `package.module:name` names; a fault where that cannot be."""
    try:
        return import_factory(place)
    except (SubsenseError, ImportError) as error:
        raise fault(f"cannot import {place!r}: {error}") from error


def check_options(factory: Callable[..., Any], options: Options, passed: Iterable[str] = ()) -> None:
    """Refuse options that `factory` doesn't take, and the lack of one it needs; `passed` are given by subsense."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return  # written in C, without a signature
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    known = [one.name for one in named if one.name not in passed]
    needed = [one.name for one in named if one.default is one.empty and one.name in known]
    faults = [unknown("option", name, known) for name in options if name not in known and not takes_any]
    faults += [f"lacks the option {name!r}" for name in needed if name not in options]
    if faults:
        raise fault("; ".join(faults))


def check_values(factory: Callable[..., Any], options: Options) -> None:
    """Refuse values that `factory` refuses."""
    try:
        factory(**options)
    except (SubsenseError, TypeError, ValueError) as error:
        raise fault(str(error)) from None


class Group(BaseModel):
    """Hold one part of a recipe: strict types, no unknown key, never changed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Choice(Group):
    """Hold a name with options, written ``ssf`` or ``{lora: {rank: 4}}``."""

    name: str
    options: CheckedOptions = {}


def as_choice(value: object) -> object:
    """Read ``ssf`` and ``{lora: {rank: 4}}`` as a `Choice`."""
    if isinstance(value, Choice):
        return value
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1:
        [(name, options)] = value.items()
        if options is None or isinstance(options, dict):
            return {"name": name, "options": options or {}}
    raise fault(f"expected a name, or one `name: {{option: value}}`, but found {value!r}")


def as_list(value: object) -> object:
    """Read one value as a list of one."""
    return tuple(value) if isinstance(value, list | tuple) and value else (value,)


def combinations_asked(value: object) -> object:
    """Accept ``all``, or a list of names."""
    if value == "all":
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise fault(f"expected 'all', or a list of combinations such as [rgb, rgb+depth], but found {value!r}")


Combinations = Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(combinations_asked)]


def degradations(value: object) -> object:
    """Accept ``all``, names of degradations, or modality -> names."""
    if value is None:
        return None
    if isinstance(value, dict) and value:
        return {str(name): _degradations(some) for name, some in value.items()}
    return _degradations(value)


def _degradations(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list | tuple) and value else [value]
    for name in names:
        if name != "all" and name not in DEGRADATIONS:
            raise fault(unknown("degradation", name, ["all", *DEGRADATIONS]))
    return tuple(DEGRADATIONS) if "all" in names else tuple(map(str, names))


def call_form(value: object) -> object:
    """Accept a way of calling the network."""
    if isinstance(value, dict) and all(isinstance(names, str | list) for names in value.values()):
        return value
    if isinstance(value, str) and ":" in value:
        import_place(value)
        return value
    if value in FORMS:
        return value
    raise fault(f"expected one of {', '.join(FORMS)}, a mapping of modality to argument names, or "
                 f"package.module:function, but found {short(value)}.{closest(str(value), FORMS)}")  # fmt: skip


FILLS = ("zeros", "literal-zeros", "mean", "learned")


def fill_form(value: object) -> object:
    """Accept one of `FILLS`, or modality -> one of these, a name that the data set knows, or a constant."""
    if value in FILLS:
        return value
    if isinstance(value, dict) and value and all(map(_is_fill, value.values())):
        return value
    raise fault(f"expected one of {', '.join(FILLS)}, or modality: fill, which may also be one that the data set "
                "names, a number, or argument: number or list, "
                f"but found {short(value)}.{closest(str(value), FILLS)}")  # fmt: skip


def _is_fill(value: object) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(_is_number(one) or isinstance(one, list) for one in value.values())
    return isinstance(value, str) or _is_number(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def readable(spec: dict[str, Any]) -> dict[str, Any]:
    """Accept modalities whose axis strings can be read."""
    try:
        Modalities(spec)
    except SubsenseError as error:
        raise fault(str(error)) from None
    return spec
