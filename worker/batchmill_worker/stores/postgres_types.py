"""The types of PostgreSQL and those of Arrow, and the values of rows as PostgreSQL takes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.operators.contract import RowError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection


def type_of(field: pa.Field) -> tuple[str, pa.DataType]:
    """Return the type of a column in PostgreSQL, and the Arrow type of what a table with it has."""
    kind, known = field.type, pa.types
    if known.is_fixed_size_list(kind) and known.is_float32(kind.value_type):
        return f"vector({kind.list_size})", kind
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
    if kind.startswith("vector("):
        return pa.list_(pa.float32(), int(kind[len("vector(") : -1]))
    return _BACK.get(kind, pa.string())


def values_of(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield the rows as what PostgreSQL takes."""
    return zip(*(_column(rows[field.name], field) for field in rows.schema), strict=True)


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


def _column(column: pa.ChunkedArray, field: pa.Field) -> Any:
    name, arrow = type_of(field)
    if name.startswith("vector("):
        return _encoded(column, field.type.list_size)
    if name != "jsonb":
        return column.cast(arrow).to_pylist()
    from psycopg.types.json import Jsonb

    return [None if value is None else Jsonb(value, dumps=_dumps) for value in column.to_pylist()]


def _encoded(column: pa.ChunkedArray, size: int) -> list[bytes]:
    """Return vectors in pgvector's binary form: the length as an int16, another int16, and the numbers, big-endian."""
    numbers = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    width = 4 + 4 * size
    rows = np.zeros((len(numbers), width), np.uint8)
    rows[:, :2] = np.frombuffer(size.to_bytes(2, "big"), np.uint8)
    rows[:, 4:] = numbers.astype(">f4").view(np.uint8)
    data = rows.tobytes()
    return [data[start : start + width] for start in range(0, len(data), width)]


def register_encoded(db: Connection[Any]) -> None:
    """Let a COPY take vectors that are in their binary form already: pgvector converts one at a time, in Python."""
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class _EncodedDumper(Dumper):
        format = Format.BINARY
        oid = db.adapters.types["vector"].oid

        def dump(self, obj: bytes) -> bytes:
            return obj

    db.adapters.register_dumper(None, _EncodedDumper)


def _dumps(value: Any) -> str:
    return json.dumps(value, default=str)
