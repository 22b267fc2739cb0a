"""A network that `fully_shard` splits between processes: each call of it is one that all of them make together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from subsense.errors import InputError
from subsense.modalities.calling import Call
from subsense.modalities.inputs import Filled
from subsense.model.rows import Rows
from subsense.support.sharded import Averaging, first_ones


class Splitting:
    """See that processes do the same, and have the same gradients.

    Args:
        call: how the network is called.
        rows: where it has the rows of a batch.
    """

    def __init__(self, call: Call, rows: Rows) -> None:
        self.call, self.rows = call, rows
        self._averaging: Averaging | None = None
        self._averages = True

    def agree(self, filled: Filled) -> None:
        """Locate rows in all processes at once, on the same inputs, and let none of them run rows in groups."""
        if self.call.omits:
            raise InputError(
                "fill: nothing stands in for what is missing (fill 'omit'), so processes would call different parts of "
                "a network that is split between them, and wait for each other; choose another fill"
            )
        self.rows.may_choose = False
        if self.rows.located is None:
            self.rows.locate_once(first_ones(filled))

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Let each backward pass end with the mean of the gradients of all processes."""
        if self._averages and self._averaging is None:
            self._averaging = Averaging(parameters)

    @contextmanager
    def own_gradients(self) -> Iterator[None]:
        """Leave each process its own gradients for a while: somebody else adds them up."""
        before = self._averages
        try:
            self._switch(False)
            yield
        finally:
            self._switch(before)

    def _switch(self, averages: bool) -> None:
        self._averages = averages
        if self._averaging is not None:
            self._averaging.on = averages
