"""Which axes of a modality's tensor are channels, time and space: what decides how its sensor can fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from subsense.degradation.kinds import Form
from subsense.errors import ModalityError, closest
from subsense.modalities import Axes


@dataclass(frozen=True)
class Layout:
    """Hold the axes of a row, counted from 0 without the batch; None: it has no such axis.

    Attributes:
        name: what users call it.
        channel, time: one axis each.
        space: height and width.
        words: the axis along which tokens stand.
    """

    name: str
    channel: int | None = None
    time: int | None = None
    space: tuple[int, int] | None = None
    words: int | None = None

    def has(self, form: Form) -> bool:
        """Say whether rows can be brought into a form of `Degradation`."""
        axes = {"time": self.time, "space": self.space, "words": self.words}
        return self.words is None if form == "channels" else axes[form] is not None

    def order(self, form: Form, count: int) -> tuple[list[int], int]:
        """Give the order of a row's `count` axes for a form, and how many of them come before what is put together."""
        wanted: dict[str, list[int | None]] = {
            "channels": [self.channel], "time": [self.time], "space": [*(self.space or ())], "words": [self.words]
        }  # fmt: skip
        named = [axis for axis in wanted[form] if axis is not None]
        rest = [axis for axis in range(count) if axis not in named]
        return (named + rest, len(named)) if form in ("time", "words") else (rest + named, -len(named))


LAYOUTS = {
    one.name: one
    for one in (
        Layout("vector", channel=0),
        Layout("wave", time=0),
        Layout("series", time=0, channel=1),
        Layout("signal", channel=0, time=1),
        Layout("image", channel=0, space=(1, 2)),
        Layout("video", channel=0, time=1, space=(2, 3)),
        Layout("tokens", words=0),
    )
}
"""Layouts by name. Their axes: vector (channel), wave (time), series (time, channel), signal (channel, time), image
(channel, H, W), video (channel, time, H, W), tokens (place)."""
_GUESSES = {1: "vector", 2: "series", 3: "image", 4: "video"}


def layout_of(name: str, axes: Axes, given: str | None = None) -> Layout:
    """Give the layout of a modality's tensor: the one that is named, or else what its number of axes suggests.

    Raises:
        ModalityError: an unknown name, one with another number of axes, or nothing that can be guessed.

    >>> layout_of("gyroscope", Axes.parse("100 3")).name, layout_of("text", Axes.parse("L:int64")).name
    ('series', 'tokens')
    """
    count = len(axes.sizes)
    if given is None:
        guess = _GUESSES.get(count) if axes.torch_dtype.is_floating_point else "tokens" if count == 1 else None
        if guess is None:
            raise ModalityError(f"{name!r} ({axes}): it isn't known how such a sensor fails; leave it out of `kinds`")
        return LAYOUTS[guess]
    if given not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise ModalityError(
            f"layout of {name!r}: expected one of {known}, but found {given!r}.{closest(given, LAYOUTS)}"
        )
    layout = LAYOUTS[given]
    takes = sum(axis is not None for axis in (layout.channel, layout.time, layout.words)) + 2 * bool(layout.space)
    if takes != count:
        raise ModalityError(f"layout of {name!r}: {given!r} has {takes} axes, but {str(axes)!r} has {count}")
    return layout


def into(form: Form, layout: Layout, values: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """Bring values (batch, ...) into a form; give the order of axes and the sizes that `back` needs, too."""
    order, named = layout.order(form, values.dim() - 1)
    moved = values.permute(0, *(1 + axis for axis in order))
    return moved.reshape(_grouped(moved.shape, form, named)), order, list(moved.shape)


def back(values: Tensor, order: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Undo `into`."""
    places = sorted(range(len(order)), key=order.__getitem__)
    return values.reshape(tuple(sizes)).permute(0, *(1 + place for place in places))


def _grouped(sizes: Sequence[int], form: Form, named: int) -> tuple[int, ...]:
    batch, rest = sizes[0], list(sizes[1:])
    if form == "words":
        return batch, rest[0]
    if form == "time":
        return batch, rest[0], prod(rest[1:])
    if form == "space":
        return batch, prod(rest[:-2]), rest[-2], rest[-1]
    return (batch, prod(rest), 1) if not named else (batch, prod(rest[:-1]), rest[-1])
