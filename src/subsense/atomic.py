"""Write files so that a process killed at any moment leaves the older version whole."""

from __future__ import annotations

import os
from pathlib import Path

from subsense.errors import WriteError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file in one step: at every moment the path holds the whole old content or the whole new one.

    Raises:
        WriteError: the disk is full, or the like; the path holds the old content.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise WriteError(
            f"{path}: {len(data):,} bytes could not be written ({error.strerror or error}); "
            "what stood there before is whole"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: str | Path) -> Path:
    """Make a folder, and those above it, where they don't exist; raise `WriteError` where that can't be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: this folder could not be made ({error.strerror or error})") from error
    return Path(folder)
