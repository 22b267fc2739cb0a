"""A page of sentences, tables and facts: what isn't results, in the same dress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from subsense.evaluation.reporting.page import template

Table = tuple[str, str, Sequence[str], Sequence[Sequence[str]]]
"""Heading, a note below it (empty: none), the names of columns, and cells."""


def plain_page(
    kicker: str, title: str, sentences: Sequence[str], tables: Sequence[Table], facts: Mapping[str, str]
) -> str:
    """Write one self-contained page, which loads nothing and runs no script."""
    page = template("plain.html.j2")
    return page.render(kicker=kicker, title=title, sentences=sentences, tables=tables, facts=dict(facts))
