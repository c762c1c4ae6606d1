"""Rows as they come in a request's body, as an Arrow table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidRows
from batchmill.sources.json_rows import table_of_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill_coordinator.inspection.arrow_bounds import ArrowLimits

MAX_CELLS = 10_000_000
"""Rows times columns: objects with different names make a table of many more cells than the request has values."""


def table_from_json(rows: list[dict[str, Any]], limits: ArrowLimits) -> pa.Table:
    """A table of JSON objects; a column that some rows lack is null there.

    Raises `InvalidRows`, naming the row, when a column's values have no common type or the table breaks a limit.
    """
    names = check_shape(rows, limits)
    table = table_of_rows(rows, names)
    limits.check_columns(table.schema)
    return table


def check_shape(objects: list[dict[str, Any]], limits: ArrowLimits) -> list[str]:
    """The columns of rows that are objects. Raises `InvalidRows` when there are too many, or too many cells."""
    names: dict[str, None] = {}
    for row in objects:
        names.update(dict.fromkeys(row))
    rows, columns = len(objects), len(names)
    if rows and not columns:
        raise InvalidRows(
            "row 0 has no columns, and neither has any other row.", hint="Give each row its values.", row=0
        )
    if columns > limits.max_columns or rows * columns > MAX_CELLS:
        raise InvalidRows(
            f"the rows have {columns:,} columns and {rows * columns:,} cells; at most {limits.max_columns:,} columns "
            f"and {MAX_CELLS:,} cells are allowed in one request.",
            hint="Give all rows the same columns, or put values of one kind into one list column.",
            limit=limits.max_columns,
        )
    return list(names)
