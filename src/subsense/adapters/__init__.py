"""The methods, by name. Each is a frozen dataclass of its options; see `subsense.adapters.base` for the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from subsense.adapters.base import Adapter, Mix
from subsense.adapters.bitfit import BitFit
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
}

Method = str | Adapter | Sequence[str | Adapter]

__all__ = [
    "METHODS",
    "SSF",
    "Adapter",
    "BitFit",
    "LoRA",
    "Method",
    "Mix",
    "Norm",
    "Scale",
    "Shift",
    "from_json",
    "parse_method",
    "to_json",
]


def parse_method(method: Method) -> tuple[Adapter, ...]:
    """Read the `method` argument of `adapt`: a name, an object with options, or a list of those acting in turn.

    Raises:
        PlanError: an unknown name, an empty list, one method twice.

    >>> parse_method(["ssf", LoRA(rank=2)])
    (SSF(), LoRA(rank=2, alpha=None))
    """
    wanted = [method] if isinstance(method, str) or not isinstance(method, Sequence) else list(method)
    adapters = tuple(_named(one) if isinstance(one, str) else _checked(one) for one in wanted)
    names = [adapter.name for adapter in adapters]
    if not names or len(set(names)) != len(names):
        raise PlanError(f"method: expected at least one method, each at most once, but found {names}")
    return adapters


def to_json(adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
    """Give methods as plain data, from which `from_json` makes equal ones."""
    return [{"name": adapter.name} | asdict(adapter) for adapter in adapters]


def from_json(data: Sequence[Mapping[str, Any]]) -> tuple[Adapter, ...]:
    """Read what `to_json` gave."""
    return tuple(METHODS[one["name"]](**{key: value for key, value in one.items() if key != "name"}) for one in data)


def _named(name: str) -> Adapter:
    if name not in METHODS:
        raise PlanError(f"unknown method {name!r}; the methods are {', '.join(METHODS)}.{closest(name, METHODS)}")
    adapter: Adapter = METHODS[name]()
    return adapter


def _checked(adapter: Any) -> Adapter:
    if type(adapter) not in METHODS.values():
        raise PlanError(
            f"method: expected a name ({', '.join(METHODS)}) or an object such as LoRA(rank=4), but found {adapter!r}"
        )
    checked: Adapter = adapter
    return checked
