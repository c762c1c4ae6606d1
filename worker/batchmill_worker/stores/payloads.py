"""What a collection keeps of a row: texts, numbers and booleans by name; anything else as JSON text."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill_worker.stores.base import cannot_search

if TYPE_CHECKING:
    from batchmill_worker.stores.filters import Term


def kept_schema(schema: pa.Schema, vector: str) -> pa.Schema:
    """Return the types that a collection keeps of columns."""
    return pa.schema([field if field.name == vector else pa.field(field.name, _kept(field.type)) for field in schema])


def to_text(schema: pa.Schema) -> str:
    """Return a schema as text, for the metadata of a collection."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def from_text(text: str) -> pa.Schema:
    """Return the schema that `to_text` was given."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def payloads_of(rows: pa.Table) -> list[dict[str, Any]]:
    """Return the columns of each row by their names. Nulls are left out, and numbers that are not finite."""
    columns = {field.name: _values(rows[field.name], _kept(field.type)) for field in rows.schema}
    rows_of = zip(*columns.values(), strict=True) if columns else ()
    return [{name: value for name, value in zip(columns, row, strict=True) if value is not None} for row in rows_of]


def is_exact(kind: pa.DataType) -> bool:
    """Return whether values of a column are compared as they are: texts, integers and booleans."""
    return not pa.types.is_floating(kind)


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_boolean(kind) or isinstance(value, bool):
        return isinstance(value, bool) and bool(pa.types.is_boolean(kind))
    return isinstance(value, str) if pa.types.is_string(kind) else isinstance(value, int | float)


def check_values(term: Term, kind: pa.DataType) -> None:
    """Raise `InvalidParams` for a comparison with values that are not of the type of the column, except null."""
    values = term.value if isinstance(term.value, list) else [term.value]
    if not all(value is None or _fits(value, kind) for value in values):
        raise cannot_search(f"the values of {term.column!r} are {kind}")
    if pa.types.is_string(kind) and term.comparison in ("lt", "lte", "gt", "gte"):
        raise cannot_search("it compares numbers only by their size")


def _kept(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_boolean(kind):
        return pa.bool_()
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return pa.int64()
    return pa.float64() if pa.types.is_floating(kind) else pa.string()


def _values(column: pa.ChunkedArray, kept: pa.DataType) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(kept):
        return [value if value is not None and math.isfinite(value) else None for value in values]
    if not pa.types.is_string(kept) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return values
    is_nested = pa.types.is_nested(column.type)
    return [None if value is None else _json(value) if is_nested else str(value) for value in values]


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
