"""What a run tells while it works: results to stdout, progress to stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


def say(text: object = "", style: str = "", to: Console = OUT) -> None:
    """Write text as it is: no markup is read, no line is wrapped."""
    to.print(Text(str(text), style=style), soft_wrap=True)


class Pace:
    """Say how long what is left will take, at the pace so far.

    Args:
        total: how many steps there are.
        clock: gives seconds.

    >>> ticks = iter([0.0, 100.0])
    >>> pace = Pace(4, lambda: next(ticks))
    >>> pace.left(), pace.left()
    ('1 of 4', '2 of 4, about 5 min left')
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.clock = total, clock
        self.begun, self.start = 0, 0.0

    def left(self) -> str:
        """Begin a step: say which one it is, and from the second on how long it and the others will take."""
        now, done = self.clock(), self.begun
        self.begun += 1
        if not done:
            self.start = now
            return f"{self.begun} of {self.total}"
        seconds = (now - self.start) / done * (self.total - done)
        left = f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"
        return f"{self.begun} of {self.total}, about {left} left"


def note(text: object) -> None:
    """Write progress to stderr; of several processes the first one does."""
    if is_first():
        say(text, "dim", ERR)


def num_processes() -> int:
    """Count the processes that were launched together: torchrun and its like tell each of them.

    >>> num_processes()
    1
    """
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Say whether this process is the one of those launched together that tells and writes.

    >>> is_first()
    True
    """
    return num_processes() == 1 or int(os.environ.get("RANK", 0)) == 0
