"""Files that are written beside where they belong, and put there once they have been checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from subsense.errors import WriteError
from subsense.support.files import make_folder


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a hidden folder beside; in the end all files in it take their places.

    Where what is done with it fails, they go, and what stood at their places before stays.

    Raises:
        WriteError: the folder can't be made, or a file can't take its place.
    """
    folder = make_folder(path.parent)
    try:
        beside = TemporaryDirectory(prefix=f".{path.name}.", dir=folder)
    except OSError as error:
        raise WriteError(f"{folder}: nothing can be written there ({error.strerror or error})") from error
    with beside as part:
        yield Path(part) / path.name
        for file in sorted(Path(part).iterdir(), key=lambda one: one.name == path.name):  # what refers to others last
            try:
                file.replace(folder / file.name)
            except OSError as error:
                raise WriteError(f"{folder / file.name}: can't be put there ({error.strerror or error})") from error
