"""The methods by name, and those of the user's own: read, checked, and written as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from math import isfinite
from typing import Any

from subsense.adapters.base import Adapter
from subsense.adapters.bitfit import BitFit
from subsense.adapters.common import Common
from subsense.adapters.embedding import Embedding
from subsense.adapters.lora import LoRA
from subsense.adapters.norm import Norm
from subsense.adapters.scale import Scale
from subsense.adapters.shift import Shift
from subsense.adapters.ssf import SSF
from subsense.errors import PlanError, closest

METHODS: Mapping[str, type[Any]] = {
    "ssf": SSF,
    "scale": Scale,
    "shift": Shift,
    "bitfit": BitFit,
    "norm": Norm,
    "lora": LoRA,
    "embedding": Embedding,
}

Method = str | Adapter | Sequence[str | Adapter]

_CONTRACT = ("serves", "parameters", "pair", "start", "apply", "merge", "fold")


def parse_method(method: Method) -> tuple[Adapter, ...]:
    """Read the `method` argument of `adapt`: a name, an object with options, or a list of those acting in turn.

    Raises:
        PlanError: an unknown name, an object that is no adapter, an empty list, one method twice.

    >>> parse_method(["ssf", LoRA(rank=2)])
    (SSF(), LoRA(rank=2, alpha=None))
    """
    wanted = [method] if isinstance(method, str) or not isinstance(method, Sequence) else list(method)
    adapters = tuple(_named(one) if isinstance(one, str) else _checked(one) for one in wanted)
    names = [adapter.name for adapter in adapters]
    if not names or len(set(names)) != len(names):
        raise PlanError(f"method: expected at least one method, each at most once, but found {names}")
    return adapters


def check_class(cls: Any) -> None:
    """Raise `PlanError` where a class can't be an adapter's; see `subsense.adapters.base.Adapter`.

    >>> check_class(SSF)
    """
    if not isinstance(cls, type):
        raise PlanError(f"methods: expected classes of adapters, but found {cls!r}")
    if cls is Common:
        return
    if METHODS.get(getattr(cls, "name", "")) is not cls and (fault := _fault(cls)):
        raise PlanError(f"method {cls.__module__}.{cls.__qualname__}: {fault}; see docs/write-your-adapter.md")


def to_json(adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
    """Give methods as plain data, from which `from_json` makes equal ones."""
    return [{"name": adapter.name} | _class_of(adapter) | _data_of(adapter) for adapter in adapters]


def from_json(data: Sequence[Mapping[str, Any]], own: Sequence[type[Any]] = ()) -> tuple[Adapter, ...]:
    """Read what `to_json` gave.

    Args:
        data: the methods. A class that they name is never imported.
        own: the user's own classes that may be among them.

    Raises:
        PlanError: a class of one's own that isn't given.
    """
    for cls in own:
        check_class(cls)
    known = {**{cls.name: cls for cls in own}, **METHODS}
    for one in _flat(data):
        if "class" in one and one["name"] not in known:
            raise PlanError(
                f"method {one['name']!r} is a class of your own, {one['class']}, and no code is imported because a "
                f"file names it; pass the class: load(..., methods=[{str(one['class']).rpartition('.')[2]}])"
            )
    return parse_method([_made(one, known) for one in data])


def words_of(adapter: Adapter) -> str:
    """Write a method with the options it was given.

    >>> words_of(LoRA(rank=2))
    'lora (rank 2)'
    """
    if isinstance(adapter, Common):
        return f"common {words_of(adapter.adapter)}"
    given = ", ".join(f"{option} {value}" for option, value in asdict(adapter).items() if value is not None)
    return f"{adapter.name} ({given})" if given else adapter.name


def _data_of(adapter: Adapter) -> dict[str, Any]:
    """Give the options; `Common` has a method among them."""
    if isinstance(adapter, Common):
        return {"adapter": to_json([adapter.adapter])[0], "include": list(adapter.include)}
    return asdict(adapter)


def _flat(data: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put the methods that `Common` holds in its place."""
    return [one["adapter"] if one["name"] == Common.name else one for one in data]


def _made(one: Mapping[str, Any], known: Mapping[str, Any]) -> Adapter:
    if one["name"] == Common.name:
        return Common(_made(one["adapter"], known), tuple(one["include"]))
    made: Adapter = known[one["name"]](**_options(one))
    return made


def _class_of(adapter: Adapter) -> dict[str, str]:
    """Say where a class of the user's own is, for whoever reads the file; nothing is imported because of it."""
    cls = type(adapter)
    return (
        {}
        if adapter.name in METHODS or isinstance(adapter, Common)
        else {"class": f"{cls.__module__}.{cls.__qualname__}"}
    )


def _options(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in ("name", "class")}


def _named(name: str) -> Adapter:
    if name not in METHODS:
        raise PlanError(
            f"unknown method {name!r}; the methods are {', '.join(METHODS)}.{closest(name, METHODS)} An adapter of "
            "your own is given as an object"
        )
    adapter: Adapter = METHODS[name]()
    return adapter


def _checked(adapter: Any) -> Adapter:
    cls = type(adapter)
    if isinstance(adapter, type) or not any(callable(getattr(cls, part, None)) for part in _CONTRACT):
        raise PlanError(
            f"method: expected a name ({', '.join(METHODS)}) or an object such as LoRA(rank=4), but found {adapter!r}"
        )
    if isinstance(adapter, Common):
        return Common(_checked(adapter.adapter), adapter.include)
    check_class(cls)
    options = asdict(adapter)
    for option, value in options.items():
        if not isinstance(value, bool | int | float | str | None) or (isinstance(value, float) and not isfinite(value)):
            raise PlanError(f"method {adapter.name!r}: option {option}: expected a number, a word or None, "
                            f"which can be saved, but found {value!r}")  # fmt: skip
    checked: Adapter = adapter
    return checked


def _fault(cls: type[Any]) -> str | None:
    """Say why a class of the user's own can't be an adapter's."""
    if "__dataclass_fields__" not in vars(cls) or not cls.__dataclass_params__.frozen:
        return "expected a frozen dataclass of its options; write @dataclass(frozen=True) above it"
    missing = [part for part in _CONTRACT if not callable(getattr(cls, part, None))]
    if missing or getattr(cls, "__abstractmethods__", None):
        return f"lacks {', '.join(missing or sorted(cls.__abstractmethods__))}"
    if any(field.name in ("name", "class") or not field.init for field in fields(cls)):
        return "expected options that its class is called with, and none called name; write name: ClassVar[str] = ..."
    return _fault_of_name(cls)


def _fault_of_name(cls: type[Any]) -> str | None:
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name or ":" in name:
        return f"expected a name, text without a colon, but found {name!r}; write name: ClassVar[str] = ..."
    if name in METHODS or name == Common.name:
        return f"its name {name!r} is that of subsense's own method, which a file of it would mean; give it another"
    return None
