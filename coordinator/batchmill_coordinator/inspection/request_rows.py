"""Rows as they come in a request's body, as an Arrow table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import array_of
from batchmill.errors import InvalidRows
from batchmill.json_values import printable

if TYPE_CHECKING:
    from batchmill_coordinator.inspection.arrow_bounds import ArrowLimits

MAX_CELLS = 10_000_000
"""Rows times columns: objects with different names make a table of many more cells than the request has values."""


def table_from_json(rows: list[dict[str, Any]], limits: ArrowLimits) -> pa.Table:
    """A table of JSON objects; a column that some rows lack is null there.

    Raises `InvalidRows`, naming the row, when a column's values have no common type or the table breaks a limit.
    """
    names = check_shape(rows, limits)
    table = pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})
    limits.check_columns(table.schema)
    return table


def check_shape(objects: list[dict[str, Any]], limits: ArrowLimits) -> list[str]:
    """The columns of rows that are objects. Raises `InvalidRows` when there are too many, or too many cells."""
    names: dict[str, None] = {}
    for row in objects:
        names.update(dict.fromkeys(row))
    rows, columns = len(objects), len(names)
    if columns > limits.max_columns or rows * columns > MAX_CELLS:
        raise InvalidRows(
            f"the rows have {columns:,} columns and {rows * columns:,} cells; at most {limits.max_columns:,} columns "
            f"and {MAX_CELLS:,} cells are allowed in one request.",
            hint="Give all rows the same columns, or put values of one kind into one list column.",
            limit=limits.max_columns,
        )
    return list(names)


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
