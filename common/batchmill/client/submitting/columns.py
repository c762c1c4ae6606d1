"""The columns of rows: dicts become Arrow columns, and each column keeps one kind of value in all rows."""

from __future__ import annotations

from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import types as kinds

from batchmill.columns import (
    RESERVED_PREFIX,
    ColumnTooLargeError,
    MixedValuesError,
    UnsupportedColumnError,
    array_of,
    carry,
    check_unchanged,
    reserved_column,
    widen_types,
)
from batchmill.errors import InvalidRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ONE_TYPE = "Give each column one type, or None."
_UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)


def rows_to_table(
    rows: Sequence[Mapping[str, Any]], first_row: int, columns: Mapping[str, list[Any]] | None = None
) -> pa.Table:
    """Convert dicts to a table with all their keys as columns; a missing key is null.

    first_row: the index of the first row, for messages. columns: what `columns_of` gave for the rows. Raises
    `InvalidRows` naming row, column and types.
    """
    columns = columns or {name: [row.get(name) for row in rows] for name in _names(rows, first_row)}
    return pa.table([_column(name, values, first_row) for name, values in columns.items()], names=list(columns))


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]] | None:
    """The columns of rows that all have the same keys; None if they may not. Without a loop over the rows in Python."""
    first = rows[0]
    if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(first)} or set(map(type, first)) != {str}:
        return None
    with suppress(KeyError):
        return {name: list(map(itemgetter(name), rows)) for name in first}
    return None


def _names(rows: Sequence[Mapping[str, Any]], first_row: int) -> list[str]:
    names = dict.fromkeys(rows[0])
    for row in rows:
        if row.keys() != names.keys():
            names.update(dict.fromkeys(row))
    odd = [name for name in names if not isinstance(name, str)]
    if odd:
        row_index = first_row + next(index for index, row in enumerate(rows) if odd[0] in row)
        raise InvalidRows(
            f"row {row_index}: the key {odd[0]!r} is a {type(odd[0]).__name__}, expected column names as text.",
            row=row_index,
        )
    if not names:
        raise InvalidRows(f"row {first_row} is an empty dict, expected at least one column.", row=first_row)
    return list(names)


def _column(name: str, values: list[Any], first_row: int) -> pa.Array:
    try:
        return array_of(values)
    except _UNFIT as error:
        raise _type_error(name, values, first_row, error) from error


def _type_error(name: str, values: list[Any], first_row: int, error: Exception) -> InvalidRows:
    """Return the error for the first value that does not match the values before it."""
    good, bad = 0, len(values)  # the first `good` values have one type, the first `bad` do not
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            array_of(values[:middle])
        except _UNFIT:
            bad = middle
        else:
            good = middle
    found = f"{type(values[good]).__name__} ({_short(values[good])})"
    known = array_of(values[:good]).type
    expected = "a value with an Arrow type" if kinds.is_null(known) else f"{known} as in the rows before it"
    if isinstance(error, MixedValuesError):
        found = f"{found}: the column has {error}"
    return _mismatch(first_row + good, name, expected, found)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _mismatch(row: int, column: str, expected: str, found: str) -> InvalidRows:
    message = f"row {row}, column {column!r}: expected {expected}, got {found}."
    return InvalidRows(message, hint=ONE_TYPE, row=row, column=column)


class ColumnTypes:
    """The types of the columns seen so far; they can widen, but never change their kind."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType] = {}

    def conform(self, table: pa.Table, first_row: int) -> pa.Table:
        """Return the table with all columns seen so far, in order, each with its widest type.

        Raises `InvalidRows`, naming row and column, for a value that does not match the rows before it.
        """
        self._check(table, first_row)
        table = _carried(table, first_row)
        for field in table.schema:
            known = self._types.setdefault(field.name, field.type)
            merged = widen_types(known, field.type)
            if merged is None:
                raise self._type_error(table, field.name, first_row)
            self._types[field.name] = merged
        return pa.table([self._cast(table, name, first_row) for name in self._types], schema=self._schema())

    def _schema(self) -> pa.Schema:
        return pa.schema(list(self._types.items()))

    def _check(self, table: pa.Table, first_row: int) -> None:
        names = table.column_names
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRows(f"two columns are called {twice!r}.", hint="Rename one of them.", column=twice)
        reserved = reserved_column(names)
        if reserved is not None:
            raise InvalidRows(
                f"row {first_row} has a column {reserved!r}: names that begin with {RESERVED_PREFIX!r} are reserved.",
                hint="Rename it.",
                row=first_row,
                column=reserved,
            )
        if not names and table.num_rows:
            raise InvalidRows(f"row {first_row} has no column, expected at least one.", row=first_row)

    def _cast(self, table: pa.Table, name: str, first_row: int) -> pa.ChunkedArray:
        if name not in table.column_names:
            return pa.chunked_array([pa.nulls(table.num_rows, self._types[name])])
        try:
            return table.column(name).cast(self._types[name])
        except pa.ArrowException as error:
            raise self._type_error(table, name, first_row) from error

    def _type_error(self, table: pa.Table, name: str, first_row: int) -> InvalidRows:
        column = table.column(name)
        valid = column.is_valid().index(True).as_py()
        expected = f"{self._types[name]} as in the rows before it"
        return _mismatch(first_row + max(valid, 0), name, expected, str(column.type))


def check_objects(frame: Any, schema: pa.Schema, first_row: int) -> None:
    """Raise `InvalidRows` for columns of Python objects in a frame of pandas or polars that Arrow does not represent.

    Both libraries convert the frame; of such objects pandas changes some, and polars gives their addresses.
    """
    library = type(frame).__module__.partition(".")[0]
    if library == "polars":
        odd = [name for name, kind in getattr(frame, "schema", {}).items() if str(kind) == "Object"]
        if odd:
            raise _mismatch(first_row, odd[0], "a type that results can hold", "Object")
    elif library == "pandas" and hasattr(frame, "items"):
        for name, series in frame.items():
            if series.dtype == object:
                _check_series(str(name), series.dropna().tolist(), schema, first_row)


def _check_series(name: str, values: list[Any], schema: pa.Schema, first_row: int) -> None:
    try:
        check_unchanged(values, schema.field(name).type)
    except MixedValuesError as error:
        raise _mismatch(first_row, name, "one kind of value", f"{error} in the frame") from error


def refused_column(error: UnsupportedColumnError, first_row: int) -> InvalidRows:
    """The error for a column of a type that cannot be carried."""
    return _mismatch(first_row, error.column, "a type that results can hold", str(error.kind))


def _carried(table: pa.Table, first_row: int) -> pa.Table:
    """The table in types that can be sent: what is encoded in a way that not every format has is decoded."""
    try:
        return carry(table)
    except UnsupportedColumnError as error:
        raise refused_column(error, first_row) from error
    except (ColumnTooLargeError, pa.ArrowException) as error:
        raise InvalidRows(f"the rows from {first_row} on cannot be sent: {error}.", row=first_row) from error
