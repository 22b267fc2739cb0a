"""Where a tensor inside the network has the batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from subsense.errors import InputError


@dataclass(frozen=True)
class Placement:
    """Say where a tensor inside the network has the batch.

    Attributes:
        axis: the axis that grows with the batch.
        inner: whether the batch varies fastest on that axis, as in (window * batch); otherwise (batch * window). None
            where that can't be told, since the axis held nothing but the batch.
        rank: how many axes the tensor had when rows were located; None where that isn't known.
    """

    axis: int
    inner: bool | None = None
    rank: int | None = field(default=None, compare=False)

    def holds(self, tensor: Tensor, num_rows: int) -> bool:
        """Say whether a tensor has these rows where they were located; a network that squeezes loses a single one."""
        fits = self.rank is None or tensor.dim() == self.rank
        return fits and self.axis < tensor.dim() and not tensor.shape[self.axis] % num_rows

    def spread(self, values: Tensor, like: Tensor, axis: int, num_features: int) -> Tensor:
        """Shape values (batch, *features) so that they broadcast to `like`, features from `axis` on."""
        size, rows = like.shape[self.axis], values.shape[0]  # not len(), which would tie a graph to one batch size
        folds = size // rows
        if size % rows:
            raise NotLocated(f"a layer's output {tuple(like.shape)} has no place for {rows} rows on axis {self.axis}")
        if folds != 1:
            self.check_folds(f"a layer's output {tuple(like.shape)}")
            values = values.repeat(folds, *[1] * num_features) if self.inner else values.repeat_interleave(folds, 0)
        return _shaped(values, like, axis, num_features, self.axis)

    def check_folds(self, what: str) -> None:
        """Raise `NotLocated` where it isn't known in which order an axis holds the batch and something else."""
        if self.inner is None:
            raise NotLocated(
                f"{what} holds more than the batch on axis {self.axis}, but didn't for the inputs with which rows were "
                "located; call locate(inputs) on the model, with inputs of this size"
            )


class NotFinite(InputError):
    """Say that rows can't be told apart, since the network gives NaN whatever goes in."""


class NotGrouped(InputError):
    """Say that rows which lack different things must run in groups, and these can't be put together again.

    Attributes:
        fact: what stands against it.
        way: what cures it in the network; empty where nothing is known.
        why: what makes groups necessary; empty where nobody said.
    """

    def __init__(self, fact: str, way: str = "") -> None:
        super().__init__(f"rows of this batch have different modalities and must run in groups, but {fact}")
        self.fact, self.way, self.why = fact, way, ""


class NotLocated(InputError):
    """Say that rows were located on inputs of another size, which doesn't tell where they are in this one."""


def _shaped(values: Tensor, like: Tensor, axis: int, num_features: int, batch_axis: int | None) -> Tensor:
    shape = [1] * like.dim()
    first = axis % like.dim()
    shape[first : first + num_features] = values.shape[1:]
    if batch_axis is not None:
        shape[batch_axis] = values.shape[0]
        if batch_axis > first:
            values = values.movedim(0, -1)
    return values.reshape(shape)
