"""Read a pickle of plain data and numpy arrays, and run nothing that stands in it.

A pickle is a program: the standard library's reader imports and calls whatever the file names. Some data sets are
released as nothing else. Here the file's operations are taken apart by `pickletools`, which runs none of them, and only
those that make numbers, texts, bytes, lists, tuples, dicts, sets, and arrays of those are followed. Everything else
ends the reading with an error that says what was found. Nothing is imported, and numpy's own unpickling isn't used: an
array is made here, of bytes that are in the file, as many as its shape and dtype ask for.
"""

from __future__ import annotations

import io
import os
import pickletools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from subsense.data.formats.pickled_arrays import (
    NAMES,
    NO_DATA,
    Announced,
    DType,
    Name,
    Parts,
    Refused,
    as_data,
    as_key,
    shortened,
)
from subsense.errors import DataError


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
    except Refused as refused:
        raise DataError(
            f"{path}: expected plain data and numpy arrays, but found {refused}. Reading stopped there; nothing that "
            "the file names was run."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a pickle that can be read to its end: {shortened(error.reason)} at byte {error.start} of "
            "a text, as in protocol 0 of Python 2, which spells bytes as text. If you trust it, load it in Python with "
            "encoding='latin1', and write it with protocol 4."
        ) from None
    except (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a pickle that can be read to its end: {shortened(error)}.") from None


class _Bounded(io.BufferedReader):
    """Read a file, and never ask for more than it holds: a length that it announces is not believed."""

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes."""
        left = os.fstat(self.fileno()).st_size - self.tell()
        if size is not None and size > left:
            raise EOFError(f"{size} bytes are announced, and {left} follow")
        return super().read(size)


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
                raise Refused(f"the operation {operation.name} at byte {position}")
            try:
                _STEPS[operation.name](self, argument)
            except Refused as refused:
                raise Refused(f"{refused} at byte {position}") from None
        return as_data(self.stack.pop())

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
            raise Refused(f"{shortened(self.stack[-1])} filled as a {kind.__name__}")
        return self.stack[-1]

    def push_tuple(self, values: Sequence[Any]) -> None:
        """Put a tuple on the stack."""
        is_data = not any(isinstance(value, NO_DATA) for value in values)
        self.push(tuple(values) if is_data else Parts(values))

    def extend(self, values: Sequence[Any]) -> None:
        """Add to the list on the stack."""
        self.top(list).extend(map(as_data, values))

    def update(self, values: Sequence[Any]) -> None:
        """Add keys and values in turn to the dict on the stack."""
        self.top(dict).update(zip(map(as_key, values[::2]), map(as_data, values[1::2]), strict=True))

    def add(self, values: Sequence[Any]) -> None:
        """Add to the set on the stack."""
        self.top(set).update(map(as_key, values))

    def push_dict(self, values: Sequence[Any]) -> None:
        """Put a dict on the stack, of keys and values in turn."""
        self.push({})
        self.update(values)

    def memoize(self, key: int) -> None:
        """Keep the last value for later."""
        value = self.memo[key] = self.stack[-1]
        if isinstance(value, Announced):
            value.keys.append(key)

    def name(self, text: str) -> None:
        """Put a name on the stack, if it is admitted."""
        if text not in NAMES:
            raise Refused(f"the name {shortened(text)}")
        self.push(NAMES[text])

    def name_from_stack(self) -> None:
        """Take module and name from the stack; a name with dots in it is none that is admitted."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str) or "." in name:
            raise Refused(f"the name {shortened(name)} in {shortened(module)}")
        self.name(f"{module}.{name}")

    def call(self) -> None:
        """Make what a name stands for."""
        args, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name.make is None or not isinstance(args, tuple):
            raise Refused(f"a call of {shortened(name)} with {shortened(args)}")
        self.push(name.make(*args))

    def build(self) -> None:
        """Give the announced array or the dtype on the stack its state."""
        state, value = self.stack.pop(), self.stack.pop()
        if not isinstance(value, Announced | DType):
            raise Refused(f"a state for {shortened(value)}")
        built = value.build(state)
        self.push(built)
        for key in value.keys if isinstance(value, Announced) else ():
            self.memo[key] = built


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
    "LIST": lambda machine, _: machine.push(list(map(as_data, machine.since_mark()))),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push_dict(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "ADDITEMS": lambda machine, _: machine.add(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(as_key, machine.since_mark()))),
    "GLOBAL": lambda machine, text: machine.name(text.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
"""Operation -> what it does. What isn't here makes objects of classes, or asks for what is outside the file."""
