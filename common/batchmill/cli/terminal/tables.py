"""The layout of a table on a terminal of any width. Pure.

1. A column is as wide as its widest cell.
2. If that is too wide for the terminal, columns of free text are cut with an ellipsis, to `MIN_TEXT_CELLS` at least.
3. If it is still too wide, the widest columns but the first move to a line of their own below each row. So ids and
   numbers are always complete, and no column shrinks to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GAP = "  "
INDENT = "    "
MIN_TEXT_CELLS = 10


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    is_text: whether its cells may be cut. is_below: whether it is always on a line of its own below the row.
    """

    title: str
    is_text: bool = False
    is_below: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """A table as lines: the header, and for each row one or more lines."""

    header: str
    rows: Sequence[Sequence[str]]


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Layout:
    """Lay a table out for a terminal of `width` cells. Cells contain no control characters."""
    natural = [
        max(cell_len(column.title), *(cell_len(row[place]) for row in rows)) if rows else cell_len(column.title)
        for place, column in enumerate(columns)
    ]
    inline = [place for place, column in enumerate(columns) if not column.is_below]
    while (widths := _fitted(columns, natural, inline, width)) is None:
        inline.remove(max(inline[1:], key=lambda place: (_least(columns[place], natural[place]), place)))
    moved = [place for place in range(len(columns)) if place not in widths]
    return Layout(
        _line([column.title for column in columns], widths),
        [[_line(row, widths), *_below(columns, row, moved, width)] for row in rows],
    )


def _least(column: Column, natural: int) -> int:
    return min(natural, max(MIN_TEXT_CELLS, cell_len(column.title))) if column.is_text else natural


def _fitted(
    columns: Sequence[Column], natural: Sequence[int], inline: Sequence[int], width: int
) -> dict[int, int] | None:
    """Return the widths of the columns, by place; None if they do not fit beside each other."""
    widths = {place: natural[place] for place in inline}
    excess = sum(widths.values()) + len(GAP) * (len(inline) - 1) - width
    for place in sorted(inline, key=lambda place: -natural[place]):
        if excess > 0 and columns[place].is_text:
            cut = min(excess, natural[place] - _least(columns[place], natural[place]))
            widths[place] -= cut
            excess -= cut
    return widths if excess <= 0 or len(inline) == 1 else None


def _line(cells: Sequence[str], widths: dict[int, int]) -> str:
    return GAP.join(_cut(cells[place], width) for place, width in widths.items()).rstrip()


def _cut(text: str, width: int) -> str:
    return set_cell_size(text, width) if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"


def _below(columns: Sequence[Column], row: Sequence[str], moved: Sequence[int], width: int) -> Iterator[str]:
    """Yield the lines below a row: moved cells with their titles, as many on a line as fit."""
    line = ""
    for place in moved:
        if not row[place]:
            continue
        part = f"{columns[place].title.lower()}: {row[place]}"
        if line and cell_len(INDENT + line) + len(GAP) + cell_len(part) > width:
            yield INDENT + line
            line = ""
        line = f"{line}{GAP}{part}" if line else part
    if line:
        yield INDENT + line
