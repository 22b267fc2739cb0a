"""The help is read as rich markup: brackets in it must come out as they were written."""

from collections.abc import Iterator

import pytest
from rich.text import Text
from typer.main import get_command

from subsense.cli import app


def texts(command: object, name: str = "subsense") -> Iterator[tuple[str, str]]:
    yield name, getattr(command, "help", None) or ""
    yield name, getattr(command, "epilog", None) or ""
    for one in getattr(command, "params", []):
        yield f"{name} {one.name}", getattr(one, "help", None) or ""
    for verb, below in getattr(command, "commands", {}).items():
        yield from texts(below, f"{name} {verb}")


@pytest.mark.parametrize(("name", "text"), [one for one in texts(get_command(app)) if one[1]])
def test_no_word_of_the_help_is_taken_for_markup(name: str, text: str) -> None:
    assert Text.from_markup(text).plain == text
