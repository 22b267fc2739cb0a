"""What `subsense new` writes: a network, its data, a recipe and a test, to be made one's own."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from subsense.errors import RecipeError
from subsense.support.files import make_folder, write_atomically

FILES = {"code.py.txt": "{}.py", "recipe.yaml": "{}.yaml", "test.py.txt": "test_{}.py"}


def start(name: str, parent: Path = Path()) -> list[Path]:
    """Write a folder that trains, evaluates and is tested as it stands.

    Args:
        name: of the folder, its module and its recipe.
        parent: the folder that it is made in.

    Raises:
        RecipeError: a name that no module can have or that another one has, or a folder that is there already.
        WriteError: a file could not be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in start("wrist", Path(folder))]
    ['wrist.py', 'wrist.yaml', 'test_wrist.py']
    """
    folder = parent / name
    if faults := list(_faults(name, folder)):
        raise RecipeError(f"new {name}", faults)
    make_folder(folder)
    written = []
    for source, target in FILES.items():
        text = (resources.files(__package__) / source).read_text("utf-8")
        written.append(folder / target.format(name))
        write_atomically(written[-1], re.sub(r"\bNAME\b", name, text.replace("test_NAME", f"test_{name}")).encode())
    return written


def _faults(name: str, folder: Path) -> list[str]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        return [f"expected a name that a Python module can have: small letters, digits and _, but found {name!r}"]
    if folder.exists():
        return [f"{folder} is there already; choose another name, or remove it"]
    if find_spec(name) is not None:
        return [f"Python has a module {name!r} already, which would be imported in its place; choose another name"]
    return []
