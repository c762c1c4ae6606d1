"""The types of PostgreSQL and those of Arrow, and the values that PostgreSQL cannot hold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.jobs.sink import ID
from batchmill.operators.contract import RowError

VECTOR = "vector"
"""The type of pgvector."""


def type_of(field: pa.Field) -> tuple[str, pa.DataType]:
    """Return the type of a column in PostgreSQL, and the Arrow type of what a table with it has."""
    kind, known = field.type, pa.types
    if field.name == ID:
        return "uuid", pa.string()
    if known.is_fixed_size_list(kind) and known.is_float32(kind.value_type):
        return f"{VECTOR}({kind.list_size})", kind
    for fits, name, arrow in _TYPES:
        if fits(kind):
            return name, arrow
    return "jsonb", pa.string()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


_TYPES: tuple[tuple[Any, str, pa.DataType], ...] = (
    (pa.types.is_boolean, "bool", pa.bool_()),
    (pa.types.is_uint64, "numeric", pa.decimal128(20, 0)),
    (pa.types.is_integer, "int8", pa.int64()),
    (pa.types.is_floating, "float8", pa.float64()),
    (pa.types.is_date, "date", pa.date32()),
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None, "timestamptz", pa.timestamp("us", "UTC")),
    (pa.types.is_timestamp, "timestamp", pa.timestamp("us")),
    (_is_text, "text", pa.string()),
    (_is_bytes, "bytea", pa.binary()),
)


_BACK = {
    "boolean": pa.bool_(),
    "numeric": pa.decimal128(20, 0),
    "bigint": pa.int64(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamp without time zone": pa.timestamp("us"),
    "bytea": pa.binary(),
}


def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of a column of the type `kind`, as PostgreSQL writes it."""
    if kind.startswith(VECTOR):
        return pa.list_(pa.float32(), int(kind[len(VECTOR) + 1 : -1]))
    return _BACK.get(kind, pa.string())


def refused_values(rows: pa.Table) -> dict[int, RowError]:
    """Return the errors of rows that PostgreSQL cannot hold, by their place: a zero byte in a text, NaN in JSON."""
    found: dict[int, RowError] = {}
    for field in rows.schema:
        name, _ = type_of(field)
        if name == "text" and not pa.types.is_null(field.type):
            places = np.flatnonzero(pc.fill_null(pc.match_substring(rows[field.name], "\0"), False).to_numpy())
        elif name == "jsonb":
            values = rows[field.name].to_pylist()
            places = np.array([place for place, value in enumerate(values) if not _is_json(value)], dtype=np.int64)
        else:
            continue
        error = RowError(f"PostgreSQL cannot store the value of {field.name!r}: it has a zero byte, or JSON with NaN.")
        found |= dict.fromkeys(places.tolist(), error)
    return found


def _is_json(value: Any) -> bool:
    try:
        return "\\u0000" not in json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        return False
