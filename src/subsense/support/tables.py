"""Plain-text tables for `print`: no colour, no terminal, no dependency."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

GAP = "  "
_BREAK_AFTER = "+.,_/ "


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    align: str | None = None,
    width: int = 80,
    rule_before: Collection[int] = (),
) -> str:
    """Lay out cells in columns, with a rule under the header and no spaces at the ends of lines.

    Where a line would be longer than `width`, the widest left-aligned column is wrapped, after ``+``, ``.`` or a space
    where possible. Other columns are never cut, so that no number is lost.

    Args:
        header: one title for each column.
        rows: cells, each row as long as the header.
        align: one letter for each column, ``l`` or ``r``; by default the first is left-aligned and the others right.
        width: characters in a line.
        rule_before: indices of the rows that get a rule above them.

    >>> print(format_table(["combination", "mIoU"], [["rgb", "53.7"], ["rgb+thermal", "57.2"]]))
    combination  mIoU
    -----------  ----
    rgb          53.7
    rgb+thermal  57.2
    """
    align = align or "l" + "r" * (len(header) - 1)
    assert {len(align), *map(len, rows)} <= {len(header)}, "ragged table"
    widths = _fit([max(map(len, column)) for column in zip(header, *rows, strict=True)], align, width)
    rule = GAP.join("-" * size for size in widths)
    lines = [*_lines(header, widths, align), rule]
    for index, row in enumerate(rows):
        lines += [rule] * (index in rule_before) + _lines(row, widths, align)
    return "\n".join(lines)


def format_facts(facts: Mapping[str, str]) -> list[str]:
    """Write one line for each fact, its words two spaces right of the longest name.

    >>> print(*format_facts({"rows": "40", "confidence": "after the temperature"}), sep="\\n")
    rows        40
    confidence  after the temperature
    """
    width = max(map(len, facts), default=0)
    return [f"{name:<{width}}{GAP}{words}" for name, words in facts.items()]


def _fit(widths: list[int], align: str, width: int) -> list[int]:
    """Narrow the widest left-aligned column by what is too much."""
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    if excess > 0 and "l" in align:
        widest = max((index for index, side in enumerate(align) if side == "l"), key=lambda index: widths[index])
        widths[widest] = max(widths[widest] - excess, 12)
    return widths


def _lines(cells: Sequence[str], widths: Sequence[int], align: str) -> list[str]:
    """Write one row, which takes several lines where a cell is wrapped."""
    wrapped = [_wrap(cell, size) for cell, size in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    padded = [cell + [""] * (height - len(cell)) for cell in wrapped]
    return [
        GAP.join(
            text.rjust(size) if side == "r" else text.ljust(size)
            for text, size, side in zip(line, widths, align, strict=True)
        ).rstrip()
        for line in zip(*padded, strict=True)
    ]


def _wrap(text: str, width: int) -> list[str]:
    """Split a text into pieces of at most `width` characters."""
    pieces = []
    while len(text) > width:
        cut = max((text.rfind(mark, 0, width) for mark in _BREAK_AFTER), default=-1) + 1 or width
        pieces.append(text[:cut].rstrip(" "))
        text = text[cut:]
    return [*pieces, text]


def format_share(share: float) -> str:
    """Write a share as a percentage, with one digit more where it is small.

    >>> format_share(0.0536), format_share(0.00658)
    ('5.36%', '0.658%')
    """
    return f"{share:.2%}" if share >= 0.01 or not share else f"{share:.3%}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Give names in a line, and of more than so many the first and the number of the rest.

    >>> listed("abcdef")
    'a, b, c, d and 2 more'
    """
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"
