"""Pickles of data are read; pickles that do anything else do nothing."""

import contextlib
import pickle
import pickletools
import random
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subsense.data.formats.restricted_pickle import read_pickle
from subsense.errors import DataError

NUMBERS = np.arange(6.0).reshape(2, 3)
DATA = {
    "arrays": [NUMBERS, NUMBERS, NUMBERS.T, NUMBERS.astype(">f4"), np.array(5), np.empty((0, 3)), np.array([True])],
    "texts": np.array(["a", "text"]),
    "bytes": np.array([b"a", b"bytes"]),
    "objects": np.array([["a", b"b", None], ["c", 1, NUMBERS[0]]], object),
    "numbers": (np.float32(0.5), np.int64(-4), np.bool_(True), 1, 2.5, 10**30, -5, True, None),
    "builtins": [
        {1, "a"},
        frozenset([b"b"]),
        bytearray(b"c"),
        b"",
        b"\xff\x00",
        "\u00fc",
        [],
        {},
        (),
        ((1, 2), 3, 4, 5),
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.pkl"


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray) and expected.dtype != object:
        return found.dtype == expected.dtype and found.shape == expected.shape and bool((found == expected).all())
    if isinstance(expected, np.ndarray):
        return found.shape == expected.shape and all(map(same, found.flat, expected.flat))
    if isinstance(expected, (list, tuple)):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_reads_data_of_every_protocol_and_both_numpys(file: Path, protocol: int, core: str) -> None:
    written = pickle.dumps(DATA, protocol)
    file.write_bytes(renamed(written) if core == "numpy.core" else written)
    found = read_pickle(file)
    assert same(found, DATA)
    assert found["arrays"][0] is found["arrays"][1]


def renamed(written: bytes) -> bytes:
    """Write the modules of numpy 1 into a pickle by numpy 2, and leave its frames out, whose lengths change."""
    for module in ("multiarray", "numeric"):
        new, old = f"numpy._core.{module}".encode(), f"numpy.core.{module}".encode()
        written = written.replace(b"c" + new + b"\n", b"c" + old + b"\n")
        written = written.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(old)]) + old)
    found = [(operation.name, position) for operation, _, position in pickletools.genops(written)]
    ends = [position for _, position in found[1:]] + [len(written)]
    return b"".join(written[start:end] for (name, start), end in zip(found, ends, strict=True) if name != "FRAME")


class Call:
    """Be pickled as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def run_me(path: str) -> None:
    Path(path).touch()


def name(module: str, text: str, protocol: int = 4) -> bytes:
    """Spell a name as a pickle does."""
    if protocol < 4:
        return f"c{module}\n{text}\n".encode()
    return b"".join(b"\x8c" + bytes([len(one)]) + one.encode() for one in (module, text)) + b"\x93"


def pickled(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


RECONSTRUCT, NDARRAY, DTYPE = (
    name("numpy._core.multiarray", "_reconstruct"),
    name("numpy", "ndarray"),
    name("numpy", "dtype"),
)
F8 = DTYPE + b"\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
OBJECT = F8.replace(b"\x02f8", b"\x02O8").replace(b"<", b"|")
EMPTY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"


def array(dtype: bytes, shape: bytes, content: bytes) -> bytes:
    return EMPTY + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


HUGE = b"\x8a\x08" + struct.pack("<q", 2**60)
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (pickled(name("os", "system"), b"\x8c\x02ls\x85R"), "the name 'os.system'"),
    "os.system by line": (b"cposix\nsystem\n(S'ls'\ntR.", "the name 'posix.system'"),
    "eval": (pickled(name("builtins", "eval"), b"\x8c\x011\x85R"), "the name 'builtins.eval'"),
    "eval of Python 2": (b"c__builtin__\neval\n(S'1'\ntR.", "the name '__builtin__.eval'"),
    "getattr": (pickled(name("builtins", "getattr")), "the name 'builtins.getattr'"),
    "a dotted name": (pickled(name("numpy", "dtype.__class__.mro")), "the name 'dtype.__class__.mro' in 'numpy'"),
    "a name cut elsewhere": (pickled(name("numpy._core", "multiarray.scalar")), "the name 'multiarray.scalar'"),
    "a name by line, cut elsewhere": (b"cnumpy\ndtype.__setstate__\n.", r"the name 'numpy.dtype.__setstate__'"),
    "a name that is no text": (pickled(b"K\x01K\x02\x93"), "the name something of type int"),
    "numpy.load": (pickled(name("numpy", "load")), "the name 'numpy.load'"),
    "a function of numpy's": (pickled(name("numpy.lib._npyio_impl", "load")), "the name 'numpy.lib"),
    "an instance, old": (b"(S'ls'\nios\nsystem\n.", "the operation INST at byte 7"),
    "an object, old": (b"(cos\nsystem\no.", "the name 'os.system'"),
    "an object of an admitted name": (pickled(b"(", NDARRAY, b"o"), "the operation OBJ"),
    "a new object": (pickled(NDARRAY, b")\x81"), "the operation NEWOBJ"),
    "a new object with keywords": (pickled(NDARRAY, b")}\x92"), "the operation NEWOBJ_EX"),
    "a registered extension": (pickled(b"\x82\x01"), "the operation EXT1"),
    "a persistent name": (b"Pwhere\n.", "the operation PERSID"),
    "a persistent value": (pickled(b"NQ"), "the operation BINPERSID"),
    "a buffer from outside": (pickled(b"\x97"), "the operation NEXT_BUFFER"),
    "a call of a text": (pickled(b"\x8c\x02ls)R"), "a call of 'ls'"),
    "a call of what a call gives": (pickled(EMPTY, b")R"), "a call of something of type announced"),
    "a call of the class": (pickled(NDARRAY, b"K\x01\x85R"), "a call of numpy.ndarray"),
    "a call with no tuple": (pickled(DTYPE, b"\x8c\x02f8R"), "a call of numpy.dtype with 'f8'"),
    "a state for a name": (pickled(DTYPE, b"}b"), "a state for numpy.dtype"),
    "a state for a dict": (pickled(b"}}b"), "a state for something of type dict"),
    "an array of another class": (pickled(RECONSTRUCT, DTYPE, b"K\x00\x85C\x01b\x87R"), "of the class numpy.dtype"),
    "an array of no class": (pickled(RECONSTRUCT, b"\x8c\x04listK\x00\x85C\x01b\x87R"), "an array of the class 'list'"),
    "an array without content": (pickled(EMPTY), "something of type announced where data should be"),
    "an array without content in a list": (pickled(b"]", EMPTY, b"a"), "something of type announced where data"),
    "an array in place of a state": (pickled(EMPTY, b"]b"), "an array with the state something of type list"),
    "a huge shape": (pickled(array(F8, HUGE + b"\x85", b"C\x00")), "an array of shape .* made of 0 in"),
    "a shape that overflows": (pickled(array(F8, HUGE * 3 + b"\x87", b"C\x08" + b"0" * 8)), "made of 8 in"),
    "a negative shape": (pickled(array(F8, b"J\xff\xff\xff\xff\x85", b"C\x00")), "of shape something of type tuple"),
    "a shape that is none": (pickled(array(F8, b"N", b"C\x00")), "an array of shape something of type nonetype"),
    "pointers for objects": (pickled(array(OBJECT, b"K\x01\x85", b"C\x08" + b"A" * 8)), "1 objects, made of 8 in"),
    "too few objects": (pickled(array(OBJECT, HUGE + b"\x85", b"]")), "objects, made of 0 in"),
    "a number that is a pointer": (
        pickled(name("numpy._core.multiarray", "scalar"), OBJECT, b"C\x08" + b"A" * 8 + b"\x86R"),
        "1 objects, made of 8 in",
    ),
    "a dtype of pointers in disguise": (
        pickled(array(DTYPE + b"\x8c\x03V16\x89\x88\x87R", b"K\x01\x85", b"C\x10" + b"A" * 16)),
        "an array of dtype 'V16'",
    ),
    "a dtype of several": (pickled(DTYPE, b"\x8c\x05O,f4,\x85R"), "an array of dtype 'O,f4,'"),
    "a dtype given by a dict": (pickled(DTYPE, b"}\x85R"), "an array of dtype something of type dict"),
    "a structured dtype": (pickled(F8.replace(b"<NNN", b"<N\x8c\x01x\x85}")), "a structured dtype"),
    "a dtype with a state of its own": (pickled(F8.replace(b"K\x00tb", b"tb")), "a dtype with the state"),
    "bytes without end": (pickled(name("builtins", "bytes"), HUGE, b"\x85R"), "a call of bytes"),
    "a bytearray without end": (pickled(name("builtins", "bytearray"), HUGE, b"\x85R"), "a call of bytearray"),
    "an encoding": (pickled(name("_codecs", "encode"), b"\x8c\x01a\x8c\x03zip\x86R"), "a call of _codecs.encode"),
    "a name as data": (pickled(DTYPE), "numpy.dtype where data should be"),
    "a name in a tuple": (pickled(b"]", DTYPE, b"\x85a"), "something of type parts where data should be"),
    "a name in a dict": (pickled(b"}K\x01", DTYPE, b"s"), "numpy.dtype where data should be"),
    "a list filled as a dict": (pickled(b"]K\x01K\x02s"), "something of type list filled as a dict"),
    "a tuple as a key": (pickled(b"})K\x01s"), "something of type tuple as a key"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_named_and_does_nothing(file: Path, attack: str) -> None:
    written, found = ATTACKS[attack]
    file.write_bytes(written)
    with pytest.raises(DataError, match=rf"data\.pkl: expected plain data and numpy arrays, but found .*{found}"):
        read_pickle(file)


def python_2(numbers: Any, size: int) -> bytes:
    """Give what Python 2 writes of an array in protocol 2: its bytes are a string."""
    raw = numbers.tobytes()
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", size) + raw[:size] + b"tb."
    )  # fmt: skip


def test_an_array_of_python_2_is_read(file: Path) -> None:
    numbers = (1.7 * np.arange(6).reshape(2, 3)).astype("<f4")
    file.write_bytes(python_2(numbers, 24))
    assert pickle.loads(file.read_bytes(), encoding="latin1").tolist() == numbers.tolist()
    assert same(read_pickle(file), numbers)


def test_no_message_prints_what_cannot_be_printed(file: Path) -> None:
    file.write_bytes(python_2(np.full(6, 1.7, "<f4"), 23))
    with pytest.raises(DataError, match=r"24 bytes, made of 23 in something of type bytes") as short:
        read_pickle(file)
    file.write_bytes(b"\x80\x02U\x02\x01\x02U\x02\x01\x02b.")
    with pytest.raises(DataError, match=r"a state for 2 characters that can't be printed") as state:
        read_pickle(file)
    file.write_bytes(b"(dS'x'\nS'\\x9a\\x99'\ns.")
    with pytest.raises(DataError, match=r"in protocol 0 of Python 2.*encoding='latin1'.*protocol 4") as spelt:
        read_pickle(file)
    assert all(str(one.value).isprintable() for one in (short, state, spelt))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_that_a_pickle_calls_is_run(file: Path, tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    inner = Call(run_me, str(mark))
    for written in (inner, [NUMBERS, {"id": inner}], Call(np.dtype, inner), np.array([inner], object)):
        file.write_bytes(pickle.dumps(written, protocol))
        with pytest.raises(DataError, match=r"found the name 'test_restricted_pickle\.run_me' at byte \d+\. Reading"):
            read_pickle(file)
        assert not mark.exists()
    pickle.loads(pickle.dumps(inner, protocol))
    assert mark.exists()  # it would have


@pytest.mark.parametrize("value", [OrderedDict(a=1), np.ma.masked_array([1]), np.datetime64("2020"), 1j, slice(1)])
def test_other_classes_are_refused(file: Path, value: Any) -> None:
    file.write_bytes(pickle.dumps({"value": value}))
    with pytest.raises(DataError, match="expected plain data and numpy arrays, but found"):
        read_pickle(file)


BROKEN = {
    "no file that is a pickle": b"text, audio, vision\n",
    "nothing": b"",
    "cut short": pickle.dumps(DATA)[:-40],
    "bytes announced": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"few.",
    "more bytes than memory": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"few.",
    "a bytearray announced": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"few.",
    "a text announced": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"few.",
    "a number announced": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"few.",
    "a memo that is not there": b"\x80\x04h\x05.",
    "nothing on the stack": b"\x80\x04R.",
    "no mark": b"\x80\x04K\x01t.",
    "an odd number of keys and values": b"\x80\x04}(K\x01u.",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_said_to_be_one(file: Path, case: str) -> None:
    file.write_bytes(BROKEN[case])
    with pytest.raises(DataError, match=r"data\.pkl: not a pickle that can be read to its end"):
        read_pickle(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*No such file"):
        read_pickle(file)


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Watch memory, and give what tells the greatest use so far, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_small_file_takes_little_memory_and_ends(file: Path) -> None:
    nested = b")" + b"2\x86" * 100  # a tuple of the last twice, a hundred times: a walk through it never ends
    deep = b")" + b"\x85" * 20_000
    memo = b"Nr\xff\xff\xff\xff"
    with traced() as greatest:
        for written in (nested, deep, memo):
            file.write_bytes(pickled(written))
            read_pickle(file)
        assert greatest() < 20e6
    file.write_bytes(pickled(b"}", nested, b"Ns"))
    with pytest.raises(DataError, match="as a key"):
        read_pickle(file)


def test_arrays_are_views_of_what_was_read(file: Path) -> None:
    file.write_bytes(pickle.dumps(np.ones(1_000_000)))
    with traced() as greatest:
        found = read_pickle(file)
        assert greatest() < 1.5 * found.nbytes


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_damage_anywhere_is_an_error_of_ours_or_other_data(file: Path, protocol: int) -> None:
    written, draw = pickle.dumps(DATA, protocol), random.Random(0)
    for _ in range(80):
        damaged = bytearray(written)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        with contextlib.suppress(DataError):
            read_pickle(file)
