"""Columns on disk, cell by cell: a run that is killed at any moment goes on where it was."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from subsense.errors import DamagedFile
from subsense.support.files import write_atomically


@dataclass(frozen=True)
class Cell:
    """Hold what was measured for one combination, on `count` rows of data; None where no row has it.

    For `num_not_finite` of the rows the output was NaN or infinite; with any, the value is NaN.
    `interval` is its bootstrap interval.
    """

    value: float | None
    count: int
    num_not_finite: int = 0
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Shelf:
    """Hold the folder of one column: a file for each finished cell, and what is needed to go on with the others.

    Everything that the values depend on is in the folder's name, so a changed recipe finds no cell of another one, and
    a recipe that is changed back finds its own again.
    """

    folder: Path

    @classmethod
    def of(cls, root: Path, name: str, origin: Mapping[str, Any]) -> Shelf:
        """Give the folder below `root` for a column that depends on `origin`."""
        text = json.dumps(origin, sort_keys=True, indent=2)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        shelf = cls(root / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{digest}")
        if not (shelf.folder / "origin.json").exists():
            shelf.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(shelf.folder / "origin.json", text.encode())
        return shelf

    def get(self, name: object) -> Cell | None:
        """Give a finished cell; None where it is not finished.

        Raises:
            DamagedFile: the file is no cell.
        """
        content = self.read(f"cells/{name}.json")
        if content is None:
            return None
        ends = content.get("interval")  # JSON knows lists alone
        return Cell(**content | {"interval": tuple(ends) if ends else None})

    def put(self, name: object, cell: Cell) -> None:
        """Keep a finished cell, and drop the state that it was trained from."""
        self.write(f"cells/{name}.json", asdict(cell))
        rmtree(self.state(name), ignore_errors=True)

    def state(self, name: object) -> Path:
        """Give the folder from which a stopped training goes on."""
        return self.folder / "state" / str(name)

    def read(self, file: str) -> dict[str, Any] | None:
        """Read a JSON file of this folder; None where there is none. Raise `DamagedFile` where it is no JSON."""
        path = self.folder / file
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise DamagedFile(f"{path}: expected JSON, but it can't be read ({error}); delete it") from None
        return content

    def write(self, file: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of this folder, whole or not at all."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content).encode())
