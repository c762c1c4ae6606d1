"""Rows as they come in a request's body, as an Arrow table. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import pyarrow as pa

from batchmill.errors import InvalidRows
from batchmill.workspace import table_from_stream


def table_from_json(rows: list[dict[str, Any]]) -> pa.Table:
    """A table of JSON objects; a column that some rows lack is null there.

    Raises `InvalidRows`, naming the row, when a column's values have no common type.
    """
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def table_from_base64(text: str) -> pa.Table:
    """The table in a base64 Arrow IPC stream. Raises `InvalidRows` when it is none."""
    try:
        table = table_from_stream(base64.b64decode(text, validate=True))
        table.validate(full=True)
    except (binascii.Error, pa.ArrowInvalid, OSError) as error:
        raise InvalidRows(
            f"rows_arrow is no Arrow IPC stream in base64 ({error}).", hint="Send plain JSON objects as `rows`."
        ) from error
    return table


def _column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        row, value = _first_misfit(values)
        raise InvalidRows(
            f"row {row}: column {name!r} holds {value!r:.80} ({type(value).__name__}), "
            "which does not fit the values in the rows before it.",
            hint="Give a column one type in all rows.",
            row=row,
            column=name,
        ) from None


def _first_misfit(values: list[Any]) -> tuple[int, Any]:
    low, high = 0, len(values)  # values[:low] convert, values[:high] do not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.array(values[:middle])
            low = middle
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            high = middle
    return high - 1, values[high - 1]
