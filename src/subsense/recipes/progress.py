"""What a run tells while it works: results to stdout, progress to stderr."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


def say(text: object = "", style: str = "", to: Console = OUT) -> None:
    """Write text as it is: no markup is read, no line is wrapped."""
    to.print(Text(str(text), style=style), soft_wrap=True)


def note(text: object) -> None:
    """Write progress to stderr."""
    say(text, "dim", ERR)
