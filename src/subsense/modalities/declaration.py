"""Modalities, their shapes, and the combinations of them: text -> plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations as subsets
from typing import Any

import torch
from torch import Tensor

from subsense.errors import InputError, ModalityError, closest

AxisSpec = str | Mapping[str, str]
"""One axis string, or one for each argument that carries the modality."""

RESERVED = frozenset({"present", "target"})
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
MOST_NUMBERS = 1 << 40
"""More than this in one row of one tensor is a mistake."""
_AXIS = re.compile(r"[A-Za-z_]\w*|[1-9][0-9]{0,12}")


@dataclass(frozen=True)
class Axes:
    """Describe one tensor without its batch axis: sizes (numbers) and letters (sizes shared between modalities).

    >>> Axes.parse("3 H W")
    Axes(sizes=(3, 'H', 'W'), dtype='float32')
    >>> Axes.parse("L:int64").dtype
    'int64'
    """

    sizes: tuple[int | str, ...]
    dtype: str = "float32"

    @classmethod
    def parse(cls, text: str) -> Axes:
        """Parse an axis string such as ``"3 H W"`` or ``"L:int64"``; raise `ModalityError` where it isn't one."""
        if not isinstance(text, str):
            raise ModalityError(f"expected an axis string such as '3 H W', but found {text!r}")
        shape, _, dtype = text.partition(":")
        words = shape.split()
        for word in words:
            if not _AXIS.fullmatch(word):
                raise ModalityError(f"axis string {text!r}: expected a name or a size above 0, but found {word!r}")
        if math.prod(int(word) for word in words if word.isdigit()) > MOST_NUMBERS:
            raise ModalityError(f"axis string {text!r}: expected at most {MOST_NUMBERS:,} numbers, but found more")
        dtype = dtype.strip() or "float32"
        if dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise ModalityError(
                f"axis string {text!r}: unknown dtype {dtype!r}; known: {known}.{closest(dtype, DTYPES)}"
            )
        return cls(tuple(int(word) if word.isdigit() else word for word in words), dtype)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Give the torch dtype."""
        return DTYPES[self.dtype]

    def __str__(self) -> str:
        shape = " ".join(map(str, self.sizes))
        return shape if self.dtype == "float32" else f"{shape}:{self.dtype}"


@dataclass(frozen=True)
class Modality:
    """A named input of the network, carried by one tensor or by several named ones."""

    name: str
    parts: Mapping[str, Axes]

    @property
    def is_single(self) -> bool:
        """Say whether one tensor of the modality's own name carries it."""
        return tuple(self.parts) == (self.name,)


@dataclass(frozen=True)
class Combination:
    """Hold a non-empty subset of the modalities, in declared order; written ``rgb+depth``.

    >>> str(Combination(("rgb", "depth")))
    'rgb+depth'
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "+".join(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


CombinationLike = str | Combination | Iterable[str]
Wanted = str | Combination | Iterable[CombinationLike]
"""``"all"``, one combination, or several."""


class Modalities(Mapping[str, Modality]):
    """Hold the network's modalities in the user's order.

    Args:
        spec: modality name -> axis string without the batch (``"3 H W"``, ``"T 74"``, ``"L:int64"``), or, where several
            arguments carry one modality, argument name -> axis string. Letters are sizes shared between modalities.

    Raises:
        ModalityError: a name that is empty, doubled, reserved or contains ``+``; an axis string that can't be read;
            fewer than two modalities.

    >>> modalities = Modalities({"rgb": "3 H W", "thermal": "1 H W"})
    >>> [str(combination) for combination in modalities.combinations()]
    ['rgb', 'thermal', 'rgb+thermal']
    >>> modalities.present("thermal")
    tensor([False,  True])
    """

    def __init__(self, spec: Mapping[str, AxisSpec] | Iterable[tuple[str, AxisSpec]]) -> None:
        pairs = _pairs(spec)
        _check_names([name for name, _ in pairs])
        self._modalities = {name: Modality(name, _parse_parts(name, axes)) for name, axes in pairs}

    def __getitem__(self, name: str) -> Modality:
        return self._modalities[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modalities)

    def __len__(self) -> int:
        return len(self._modalities)

    def __repr__(self) -> str:
        return f"Modalities({self.spec})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Modalities) and list(self.spec.items()) == list(other.spec.items())

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def names(self) -> tuple[str, ...]:
        """Give the names in declared order."""
        return tuple(self._modalities)

    @property
    def spec(self) -> dict[str, str | dict[str, str]]:
        """Give the declaration back as plain data, from which an equal object can be made."""
        return {
            name: str(modality.parts[name]) if modality.is_single else {k: str(v) for k, v in modality.parts.items()}
            for name, modality in self._modalities.items()
        }

    @cached_property
    def complete(self) -> Combination:
        """Give the combination of all modalities."""
        return Combination(self.names)

    def combination(self, what: CombinationLike) -> Combination:
        """Read a combination from ``"rgb+depth"``, an iterable of names, or a `Combination`.

        Raises:
            ModalityError: an unknown or doubled name, or no name at all.
        """
        names = [name.strip() for name in what.split("+")] if isinstance(what, str) else list(what)
        for name in names:
            if name not in self:
                known = ", ".join(self.names)
                raise ModalityError(
                    f"unknown modality {name!r} in combination {_written(what)!r}; "
                    f"the modalities are {known}.{closest(str(name), self.names)}"
                )
        if not names or len(set(names)) != len(names):
            raise ModalityError(f"combination {_written(what)!r}: expected each modality at most once, at least one")
        return Combination(tuple(name for name in self.names if name in names))

    def combinations(self) -> tuple[Combination, ...]:
        """Give all 2^M - 1 combinations: single modalities first, the complete one last."""
        sizes = range(1, len(self) + 1)
        return tuple(Combination(names) for size in sizes for names in subsets(self.names, size))

    def incomplete(self) -> tuple[Combination, ...]:
        """Give the combinations that lack something: all but the complete one."""
        return self.combinations()[:-1]

    def select(self, wanted: Wanted, *, complete: bool = False) -> tuple[Combination, ...]:
        """Give the combinations asked for, without repeats: what every argument named `combinations` is read by.

        Args:
            wanted: ``"all"``, one combination (``"rgb+depth"``), or several of them.
            complete: whether the complete one may be asked for, and belongs to ``"all"``.

        Raises:
            ModalityError: an unknown name, no combination at all, or the complete one where it has no place.

        >>> modalities = Modalities({"rgb": "3 H W", "thermal": "1 H W"})
        >>> modalities.select("rgb") == modalities.select(["rgb"])
        True
        """
        if isinstance(wanted, str) and wanted == "all":
            return self.combinations() if complete else self.incomplete()
        asked = [wanted] if isinstance(wanted, (str, Combination)) else list(wanted)
        chosen = dict.fromkeys(self.combination(one) for one in asked)
        if not chosen:
            raise ModalityError("combinations: expected 'all' or at least one combination, but found an empty list")
        if self.complete in chosen and not complete:
            raise ModalityError(
                f"combinations: {self.complete} lacks nothing: with every modality present the network "
                "runs as it is, so no adapter set belongs to it; leave it out"
            )
        return tuple(chosen)

    def present(self, combination: CombinationLike) -> Tensor:
        """Give which modalities a combination has: bool (modality,)."""
        has = self.combination(combination)
        return torch.tensor([name in has for name in self.names])

    def quality(self, of: Mapping[str, float]) -> Tensor:
        """Give what there is of each modality, float in [0, 1] (modality,); what isn't named is missing.

        Raises:
            ModalityError: an unknown name, a number outside [0, 1], or nothing at all.

        >>> Modalities({"rgb": "3 H W", "thermal": "1 H W"}).quality({"rgb": 0.5})
        tensor([0.5000, 0.0000])
        """
        for name, value in of.items():
            if name in self and not 0 <= value <= 1:
                raise ModalityError(f"quality of {name!r}: expected a number in [0, 1], but found {value!r}")
        self.combination([name for name, value in of.items() if name not in self or value > 0])
        return torch.tensor([float(of.get(name, 0)) for name in self.names])

    def code(self, combination: CombinationLike) -> int:
        """Give a combination as a bit mask: bit i is set where modality i is present.

        >>> Modalities({"rgb": "3 H W", "thermal": "1 H W"}).code("thermal")
        2
        """
        has = self.combination(combination)
        return sum(1 << bit for bit, name in enumerate(self.names) if name in has)

    def from_code(self, code: int) -> Combination:
        """Give the combination of a bit mask."""
        return Combination(tuple(name for bit, name in enumerate(self.names) if code >> bit & 1))

    def from_present(self, row: Tensor | Sequence[bool]) -> Combination:
        """Give the combination of one row of `present`: bool (modality,); raise `InputError` where nothing is."""
        flags = [bool(flag) for flag in row]
        if not any(flags):
            raise InputError("a row has no modality present; a combination has at least one")
        return Combination(tuple(name for name, flag in zip(self.names, flags, strict=True) if flag))


def _pairs(spec: Any) -> list[tuple[str, AxisSpec]]:
    """Give name and axes of each modality, of a mapping or of pairs."""
    pairs = list(spec.items() if isinstance(spec, Mapping) else spec) if isinstance(spec, Iterable) else [spec]
    if wrong := [one for one in pairs if not isinstance(one, tuple | list) or len(one) != 2]:
        raise ModalityError(
            "modalities: expected name -> axis string without the batch, such as {'rgb': '3 H W', 'audio': 'T 40'}, "
            f"but found {wrong[0]!r} in {type(spec).__name__} instead of a name with its axes"
        )
    return [(name, axes) for name, axes in pairs]


def _written(what: CombinationLike) -> str:
    return what if isinstance(what, str) else "+".join(map(str, what))


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(name, str) or not name or name != name.strip():
            raise ModalityError(f"expected a modality's name, without spaces around it, but found {name!r}")
        if "+" in name:
            raise ModalityError(f"modality {name!r}: a name can't contain '+', which joins modalities; rename it")
        if name in RESERVED:
            raise ModalityError(f"modality {name!r}: the name is reserved for a batch's own entries; rename it")
        if names.count(name) > 1:
            raise ModalityError(f"modality {name!r} is declared twice; each name must be its own")
    if len(names) < 2:
        raise ModalityError(
            f"expected at least two modalities, but found {list(names)}: with one, nothing can be missing"
        )


def _parse_parts(name: str, axes: AxisSpec) -> dict[str, Axes]:
    parts = {name: axes} if isinstance(axes, str) else axes
    if not isinstance(parts, Mapping) or not parts:
        raise ModalityError(
            f"modality {name!r}: expected an axis string or argument -> axis string, but found {axes!r}"
        )
    try:
        return {part: Axes.parse(text) for part, text in parts.items()}
    except ModalityError as error:
        raise ModalityError(f"modality {name!r}: {error}") from None
