"""What a pickle of arrays may name, and what is made here in its place; see `restricted_pickle`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Refused(Exception):
    """Say what was found that is not admitted."""


@dataclass(frozen=True)
class Name:
    """Be a name that is admitted, and what is made here where it is called; None where it may only be mentioned."""

    text: str
    make: Callable[..., Any] | None = None


@dataclass
class DType:
    """Be a dtype: first its code, such as f4, then its byte order."""

    dtype: np.dtype[Any]

    def build(self, state: Any) -> DType:
        """Take (version, byte order, subarray, names, fields, ...), of which nothing but the order may say anything."""
        if not isinstance(state, tuple) or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise Refused(f"a dtype with the state {shortened(state)}")
        if any(part is not None for part in state[2:5]):
            raise Refused("a structured dtype")
        self.dtype = self.dtype.newbyteorder(state[1])
        return self


@dataclass
class Announced:
    """Be an array of which shape, dtype and content are still to come."""

    keys: list[int] = field(default_factory=list)

    def build(self, state: Any) -> Array:
        """Take (version, shape, dtype, Fortran order, bytes or a list of objects)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused(f"an array with the state {shortened(state)}")
        _, shape, dtype, fortran, content = state
        return _array(content, dtype, shape, "F" if fortran else "C")


class Parts(tuple[Any, ...]):
    """Be a tuple that holds names, dtypes or announced arrays: arguments, not data."""


def _announce(cls: Any = None, *_: Any) -> Announced:
    if cls is not NDARRAY:
        raise Refused(f"an array of the class {shortened(cls)}")
    return Announced()


def _dtype(code: Any = None, *_: Any) -> DType:
    if not isinstance(code, str) or not re.fullmatch(r"[biufcSU][1-9]\d{0,8}|O8?", code):
        raise Refused(f"an array of dtype {shortened(code)}")
    return DType(np.dtype(code))


def _array(content: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    if not isinstance(dtype, DType) or order not in ("C", "F"):
        raise Refused(f"an array of dtype {shortened(dtype)} in order {shortened(order)}")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise Refused(f"an array of shape {shortened(shape)}")
    if dtype.dtype == object:
        return _objects(content, shape, order)
    if isinstance(content, str):  # what Python 2 calls a string
        content = _encode(content)
    expected = math.prod(shape) * dtype.dtype.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != expected:
        raise Refused(
            f"an array of shape {shape} and dtype {dtype.dtype}, {expected} bytes, made of {described(content)}"
        )
    return np.ndarray(shape, dtype.dtype, content, order=order)


def _objects(content: Any, shape: tuple[int, ...], order: Any) -> Array:
    if not isinstance(content, list) or len(content) != math.prod(shape):
        raise Refused(f"an array of {math.prod(shape)} objects, made of {described(content)}")
    values = np.empty(len(content), object)
    for index, value in enumerate(content):
        values[index] = value
    return values.reshape(shape, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(content, dtype, ())[()]


def _encode(text: Any = None, encoding: Any = "latin1") -> bytes:
    """Give bytes as protocols 0 to 2 spell them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"a call of _codecs.encode with {shortened(text)} and {shortened(encoding)}")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise Refused(f"bytes made of {shortened(text)}") from None


def _container(cls: type[Any]) -> Callable[..., Any]:
    """Make bytes or a set of what is in the file; of a number it would be as much memory."""

    def make(content: Any = (), *others: Any) -> Any:
        if others or type(content) not in (list, tuple, bytes):
            raise Refused(f"a call of {cls.__name__} with {shortened(content)}")
        return cls(content) if cls in (bytes, bytearray) else cls(map(as_key, content))

    return make


NDARRAY = Name("numpy.ndarray")
NAMES: Mapping[str, Name] = {
    name.text: name
    for name in (
        NDARRAY,
        Name("numpy.dtype", _dtype),
        *(Name(f"{core}.multiarray._reconstruct", _announce) for core in ("numpy.core", "numpy._core")),
        *(Name(f"{core}.multiarray.scalar", _scalar) for core in ("numpy.core", "numpy._core")),
        *(Name(f"{core}.numeric._frombuffer", _array) for core in ("numpy.core", "numpy._core")),
        Name("_codecs.encode", _encode),
        *(
            Name(f"{module}.{cls.__name__}", _container(cls))
            for module in ("builtins", "__builtin__")
            for cls in (set, frozenset, bytes, bytearray)
        ),
    )
}
NO_DATA = (Name, DType, Announced, Parts)


def as_data(value: Any) -> Any:
    """Give the value, if it is data."""
    if isinstance(value, NO_DATA):
        raise Refused(f"{shortened(value)} where data should be")
    return value


def as_key(value: Any) -> Any:
    """Give the value, if it can be a key without a walk through what is inside it, which may be shared without end."""
    if not isinstance(value, str | bytes | int | float | np.generic | None):
        raise Refused(f"{shortened(value)} as a key, or in a set")
    return value


def described(content: Any) -> str:
    return (
        f"{len(content)} in {shortened(content)}"
        if isinstance(content, list | bytes | bytearray)
        else shortened(content)
    )


def shortened(value: Any) -> str:
    if isinstance(value, Name):
        return value.text
    if isinstance(value, str | Exception):
        text = str(value)
        return repr(text[:80]) if text.isprintable() else f"{len(text)} characters that can't be printed"
    return f"something of type {type(value).__name__.strip('_').lower()}"
