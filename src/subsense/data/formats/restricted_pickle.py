"""Read a pickle of plain data and numpy arrays, and run nothing that stands in it.

A pickle is a program: the standard library's reader imports and calls whatever the file names. Some data sets are
released as nothing else. Here the file's operations are taken apart by `pickletools`, which runs none of them, and only
those that make numbers, texts, bytes, lists, tuples, dicts, sets, and arrays of those are followed. Everything else
ends the reading with an error that says what was found. Nothing is imported, and numpy's own unpickling isn't used: an
array is made here, of bytes that are in the file, as many as its shape and dtype ask for.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subsense.errors import DataError

Array = npt.NDArray[Any]


def read_pickle(path: Path) -> Any:
    """Read a pickle, of any protocol, that holds plain data and numpy arrays, written by numpy 1 or 2.

    Of Python 2's, protocols 1 and 2 are read too; its strings become str.

    Memory holds the file's bytes once; arrays of numbers are views of them, and may be read-only.

    Raises:
        DataError: the file holds something else, which is named, or is no pickle, or is cut short.
    """
    try:
        with _Bounded(io.FileIO(path)) as file:
            return _Machine().run(file)
    except _Refused as refused:
        raise DataError(
            f"{path}: expected plain data and numpy arrays, but found {refused}. Reading stopped there; nothing that "
            "the file names was run."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a pickle that can be read to its end: {_short(error.reason)} at byte {error.start} of "
            "a text, as in protocol 0 of Python 2, which spells bytes as text. If you trust it, load it in Python with "
            "encoding='latin1', and write it with protocol 4."
        ) from None
    except (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a pickle that can be read to its end: {_short(error)}.") from None


class _Refused(Exception):
    """Say what was found that is not admitted."""


class _Bounded(io.BufferedReader):
    """Read a file, and never ask for more than it holds: a length that it announces is not believed."""

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes."""
        left = os.fstat(self.fileno()).st_size - self.tell()
        if size is not None and size > left:
            raise EOFError(f"{size} bytes are announced, and {left} follow")
        return super().read(size)


# ---- what a pickle of arrays names


@dataclass(frozen=True)
class _Name:
    """Be a name that is admitted, and what is made here where it is called; None where it may only be mentioned."""

    text: str
    make: Callable[..., Any] | None = None


@dataclass
class _DType:
    """Be a dtype: first its code, such as f4, then its byte order."""

    dtype: np.dtype[Any]

    def build(self, state: Any) -> _DType:
        """Take (version, byte order, subarray, names, fields, ...), of which nothing but the order may say anything."""
        if not isinstance(state, tuple) or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise _Refused(f"a dtype with the state {_short(state)}")
        if any(part is not None for part in state[2:5]):
            raise _Refused("a structured dtype")
        self.dtype = self.dtype.newbyteorder(state[1])
        return self


@dataclass
class _Announced:
    """Be an array of which shape, dtype and content are still to come."""

    keys: list[int] = field(default_factory=list)

    def build(self, state: Any) -> Array:
        """Take (version, shape, dtype, Fortran order, bytes or a list of objects)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused(f"an array with the state {_short(state)}")
        _, shape, dtype, fortran, content = state
        return _array(content, dtype, shape, "F" if fortran else "C")


class _Parts(tuple[Any, ...]):
    """Be a tuple that holds names, dtypes or announced arrays: arguments, not data."""


def _announce(cls: Any = None, *_: Any) -> _Announced:
    if cls is not _NDARRAY:
        raise _Refused(f"an array of the class {_short(cls)}")
    return _Announced()


def _dtype(code: Any = None, *_: Any) -> _DType:
    if not isinstance(code, str) or not re.fullmatch(r"[biufcSU][1-9]\d{0,8}|O8?", code):
        raise _Refused(f"an array of dtype {_short(code)}")
    return _DType(np.dtype(code))


def _array(content: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    if not isinstance(dtype, _DType) or order not in ("C", "F"):
        raise _Refused(f"an array of dtype {_short(dtype)} in order {_short(order)}")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise _Refused(f"an array of shape {_short(shape)}")
    if dtype.dtype == object:
        return _objects(content, shape, order)
    if isinstance(content, str):  # what Python 2 calls a string
        content = _encode(content)
    expected = math.prod(shape) * dtype.dtype.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != expected:
        raise _Refused(f"an array of shape {shape} and dtype {dtype.dtype}, {expected} bytes, made of {_size(content)}")
    return np.ndarray(shape, dtype.dtype, content, order=order)


def _objects(content: Any, shape: tuple[int, ...], order: Any) -> Array:
    if not isinstance(content, list) or len(content) != math.prod(shape):
        raise _Refused(f"an array of {math.prod(shape)} objects, made of {_size(content)}")
    values = np.empty(len(content), object)
    for index, value in enumerate(content):
        values[index] = value
    return values.reshape(shape, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(content, dtype, ())[()]


def _encode(text: Any = None, encoding: Any = "latin1") -> bytes:
    """Give bytes as protocols 0 to 2 spell them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"a call of _codecs.encode with {_short(text)} and {_short(encoding)}")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise _Refused(f"bytes made of {_short(text)}") from None


def _container(cls: type[Any]) -> Callable[..., Any]:
    """Make bytes or a set of what is in the file; of a number it would be as much memory."""

    def make(content: Any = (), *others: Any) -> Any:
        if others or type(content) not in (list, tuple, bytes):
            raise _Refused(f"a call of {cls.__name__} with {_short(content)}")
        return cls(content) if cls in (bytes, bytearray) else cls(map(_key, content))

    return make


_NDARRAY = _Name("numpy.ndarray")
_NAMES: Mapping[str, _Name] = {
    name.text: name
    for name in (
        _NDARRAY,
        _Name("numpy.dtype", _dtype),
        *(_Name(f"{core}.multiarray._reconstruct", _announce) for core in ("numpy.core", "numpy._core")),
        *(_Name(f"{core}.multiarray.scalar", _scalar) for core in ("numpy.core", "numpy._core")),
        *(_Name(f"{core}.numeric._frombuffer", _array) for core in ("numpy.core", "numpy._core")),
        _Name("_codecs.encode", _encode),
        *(
            _Name(f"{module}.{cls.__name__}", _container(cls))
            for module in ("builtins", "__builtin__")
            for cls in (set, frozenset, bytes, bytearray)
        ),
    )
}


# ---- the operations


class _Machine:
    """Follow the operations of a pickle: a stack, marks in it, and a memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: _Bounded) -> Any:
        """Give what the pickle holds."""
        for operation, argument, position in pickletools.genops(file):
            if operation.name not in _STEPS:
                raise _Refused(f"the operation {operation.name} at byte {position}")
            try:
                _STEPS[operation.name](self, argument)
            except _Refused as refused:
                raise _Refused(f"{refused} at byte {position}") from None
        return _data(self.stack.pop())

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def mark(self) -> None:
        """Remember where the stack ends."""
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop(self) -> None:
        """Drop the last value, or the mark after it."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def top(self, kind: type[Any]) -> Any:
        """Give the container that is filled."""
        if type(self.stack[-1]) is not kind:
            raise _Refused(f"{_short(self.stack[-1])} filled as a {kind.__name__}")
        return self.stack[-1]

    def push_tuple(self, values: Sequence[Any]) -> None:
        """Put a tuple on the stack."""
        is_data = not any(isinstance(value, _NO_DATA) for value in values)
        self.push(tuple(values) if is_data else _Parts(values))

    def extend(self, values: Sequence[Any]) -> None:
        """Add to the list on the stack."""
        self.top(list).extend(map(_data, values))

    def update(self, values: Sequence[Any]) -> None:
        """Add keys and values in turn to the dict on the stack."""
        self.top(dict).update(zip(map(_key, values[::2]), map(_data, values[1::2]), strict=True))

    def add(self, values: Sequence[Any]) -> None:
        """Add to the set on the stack."""
        self.top(set).update(map(_key, values))

    def push_dict(self, values: Sequence[Any]) -> None:
        """Put a dict on the stack, of keys and values in turn."""
        self.push({})
        self.update(values)

    def memoize(self, key: int) -> None:
        """Keep the last value for later."""
        value = self.memo[key] = self.stack[-1]
        if isinstance(value, _Announced):
            value.keys.append(key)

    def name(self, text: str) -> None:
        """Put a name on the stack, if it is admitted."""
        if text not in _NAMES:
            raise _Refused(f"the name {_short(text)}")
        self.push(_NAMES[text])

    def name_from_stack(self) -> None:
        """Take module and name from the stack; a name with dots in it is none that is admitted."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str) or "." in name:
            raise _Refused(f"the name {_short(name)} in {_short(module)}")
        self.name(f"{module}.{name}")

    def call(self) -> None:
        """Make what a name stands for."""
        args, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or name.make is None or not isinstance(args, tuple):
            raise _Refused(f"a call of {_short(name)} with {_short(args)}")
        self.push(name.make(*args))

    def build(self) -> None:
        """Give the announced array or the dtype on the stack its state."""
        state, value = self.stack.pop(), self.stack.pop()
        if not isinstance(value, _Announced | _DType):
            raise _Refused(f"a state for {_short(value)}")
        built = value.build(state)
        self.push(built)
        for key in value.keys if isinstance(value, _Announced) else ():
            self.memo[key] = built


_NO_DATA = (_Name, _DType, _Announced, _Parts)


def _data(value: Any) -> Any:
    """Give the value, if it is data."""
    if isinstance(value, _NO_DATA):
        raise _Refused(f"{_short(value)} where data should be")
    return value


def _key(value: Any) -> Any:
    """Give the value, if it can be a key without a walk through what is inside it, which may be shared without end."""
    if not isinstance(value, str | bytes | int | float | np.generic | None):
        raise _Refused(f"{_short(value)} as a key, or in a set")
    return value


Step = Callable[[_Machine, Any], Any]
_VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_STEPS: Mapping[str, Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(_VALUES, lambda machine, value: machine.push(value)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, key: machine.memoize(key)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, key: machine.push(machine.memo[key])),
    "MEMOIZE": lambda machine, _: machine.memoize(len(machine.memo)),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push_tuple([machine.stack.pop()]),
    "TUPLE2": lambda machine, _: machine.push_tuple([machine.stack.pop(-2), machine.stack.pop()]),
    "TUPLE3": lambda machine, _: machine.push_tuple([machine.stack.pop(end) for end in (-3, -2, -1)]),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.since_mark()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(list(map(_data, machine.since_mark()))),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push_dict(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "ADDITEMS": lambda machine, _: machine.add(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(_key, machine.since_mark()))),
    "GLOBAL": lambda machine, text: machine.name(text.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
"""Operation -> what it does. What isn't here makes objects of classes, or asks for what is outside the file."""


def _size(content: Any) -> str:
    return f"{len(content)} in {_short(content)}" if isinstance(content, list | bytes | bytearray) else _short(content)


def _short(value: Any) -> str:
    if isinstance(value, _Name):
        return value.text
    if isinstance(value, str | Exception):
        text = str(value)
        return repr(text[:80]) if text.isprintable() else f"{len(text)} characters that can't be printed"
    return f"something of type {type(value).__name__.strip('_').lower()}"
