"""Columns of rows: types that are carried, how types widen, Python values of a column, schemas as text."""

from __future__ import annotations

from batchmill.columns.carried_types import (
    RESERVED_PREFIX,
    ColumnTooLargeError,
    UnsupportedColumnError,
    carried_schema,
    carry,
    reserved_column,
)
from batchmill.columns.from_values import MixedValuesError, array_as, array_of, check_unchanged
from batchmill.columns.python_values import rows_of, values_of
from batchmill.columns.schema_text import decode_schema, encode_schema
from batchmill.columns.widening import (
    TypeConflictError,
    UnfitValue,
    join_what_fits,
    widen_schemas,
    widen_table,
    widen_types,
)

__all__ = [
    "RESERVED_PREFIX",
    "ColumnTooLargeError",
    "MixedValuesError",
    "TypeConflictError",
    "UnfitValue",
    "UnsupportedColumnError",
    "array_as",
    "array_of",
    "carried_schema",
    "carry",
    "check_unchanged",
    "decode_schema",
    "encode_schema",
    "join_what_fits",
    "reserved_column",
    "rows_of",
    "values_of",
    "widen_schemas",
    "widen_table",
    "widen_types",
]
