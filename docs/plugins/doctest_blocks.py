"""Show a docstring's doctests as sessions: outside an `Examples:` section griffe takes them for text."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

SESSION = re.compile(r"^( *)>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Put fences around each doctest."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of what was just read."""
        if obj.docstring is not None:
            obj.docstring.value = SESSION.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    session = textwrap.dedent(found.group())
    return textwrap.indent(f"```pycon\n{session}\n```", found.group(1))
