"""Rows as they come in JSON, as an Arrow table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import array_of
from batchmill.errors import InvalidRows
from batchmill.json_values import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table_of_rows(rows: Sequence[dict[str, Any]], names: Iterable[str] | None = None) -> pa.Table:
    """A table of JSON objects; a column that some rows lack is null there.

    names: of the columns; None: all that a row has. Raises `InvalidRows`, naming the row, when the values of a column
    have no common type.
    """
    if names is None:
        names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _column(name: str, values: list[Any]) -> pa.Array:
    try:
        return array_of(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        row, value = _first_unconvertible(values)
        raise InvalidRows(
            f"row {row}: column {name!r} holds {printable(repr(value)):.80} ({type(value).__name__}), "
            "which does not fit the values in the rows before it.",
            hint="Give a column one type in all rows.",
            row=row,
            column=name,
        ) from None


def _first_unconvertible(values: list[Any]) -> tuple[int, Any]:
    low, high = 0, len(values)  # values[:low] convert, values[:high] do not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            array_of(values[:middle])
            low = middle
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            high = middle
    return high - 1, values[high - 1]
