"""The house rules that can be counted: no long file, no large class, no function with many parameters."""

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parent.parent / "src" / "subsense"
FILES = sorted(SRC.rglob("*.py"))
MOST_LINES = 350
MOST_CLASS_LINES = 200
MOST_PARAMETERS = 12
MOST_ENTRIES = 21
FREE = {"adapt", "train"}
"""Functions whose parameters are what the caller may choose; so are those of networks (zoo)."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions() -> Iterator[tuple[str, Definition]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, Definition):
                yield f"{file.relative_to(SRC)}:{node.lineno} {node.name}", node


def test_no_file_is_long() -> None:
    long = {str(file.relative_to(SRC)): count for file in FILES if (count := lines_of(file)) > MOST_LINES}
    assert not long


def test_no_class_is_large() -> None:
    sizes = {
        place: (node.end_lineno or 0) - node.lineno + 1
        for place, node in definitions()
        if isinstance(node, ast.ClassDef)
    }
    assert not {place: size for place, size in sizes.items() if size > MOST_CLASS_LINES}


def test_no_function_has_many_parameters() -> None:
    counts = {
        place: parameters_of(node)
        for place, node in definitions()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name not in FREE
        and not place.startswith("zoo/")
    }
    assert not {place: count for place, count in counts.items() if count > MOST_PARAMETERS}


def test_few_entries_lie_at_the_top() -> None:
    entries = [entry.name for entry in SRC.iterdir() if entry.name not in ("__pycache__", "py.typed")]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def lines_of(file: Path) -> int:
    return len(file.read_text("utf-8").splitlines())


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count parameters, the object that a method belongs to left out."""
    named = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])
