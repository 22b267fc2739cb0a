"""Results -> table, picture or page: pure functions of the data, which need neither the network nor its data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from subsense.errors import ResultsError, closest
from subsense.evaluation.reporting.examples import Example, Examples, Input, Prediction, collect_examples
from subsense.evaluation.results import Results

__all__ = ["Example", "Examples", "Input", "Prediction", "collect_examples", "report"]


def report(results: Results, path: str | os.PathLike[str], examples: Examples | None = None) -> Path:
    """Write results in the form that the file's ending names; make the folder where it is missing. Return the path.

    Args:
        results: what an evaluation measured.
        path: a file ending in ``.md``, ``.csv``, ``.tex`` (booktabs), ``.png`` or ``.html`` (one self-contained page).
        examples: inputs with predictions, which the page shows with a switch for each modality.

    Raises:
        ResultsError: another ending.

    >>> import tempfile, torch
    >>> from torch import nn
    >>> import subsense as ss
    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)
    ...     def forward(self, left, right):
    ...         return self.a(left) + self.b(right)
    >>> robust = ss.adapt(Sum(), {"left": "4", "right": "6"}, untrained="pretrained")
    >>> batch = {"left": torch.randn(8, 4), "right": torch.randn(8, 6)}, torch.randint(3, (8,))
    >>> results = ss.evaluate(robust, [batch], metric="accuracy", progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ss.report(results, folder + "/results.md").read_text().splitlines()[0]
    '| combination | pretrained | adapted |'
    """
    target = Path(path)
    write = _FORMS.get(target.suffix.lower())
    if write is None:
        hint = closest(target.suffix, _FORMS)
        raise ResultsError(f"{path}: expected a file ending in {', '.join(_FORMS)}, but found {target.suffix!r}.{hint}")
    content = write(results, examples)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def _markdown(results: Results, examples: Examples | None) -> bytes:
    from subsense.evaluation.reporting.text import markdown

    return markdown(results).encode()


def _csv(results: Results, examples: Examples | None) -> bytes:
    from subsense.evaluation.reporting.text import csv

    return csv(results).encode()


def _latex(results: Results, examples: Examples | None) -> bytes:
    from subsense.evaluation.reporting.text import latex

    return latex(results).encode()


def _png(results: Results, examples: Examples | None) -> bytes:
    from subsense.evaluation.reporting.figure import png

    return png(results)


def _page(results: Results, examples: Examples | None) -> bytes:
    from subsense.evaluation.reporting.page import page

    return page(results, examples).encode()


_FORMS: dict[str, Callable[[Results, Examples | None], bytes]] = {
    ".md": _markdown,
    ".csv": _csv,
    ".tex": _latex,
    ".png": _png,
    ".html": _page,
}
