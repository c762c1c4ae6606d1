"""Schemas of several files, or several ranges of one, united."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import widen_types
from batchmill.errors import InvalidSource, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


class SchemaConflictError(ValueError):
    """A column has two types that no type holds both of; `found` is None where the column is missing."""

    def __init__(self, column: str, expected: pa.DataType, found: pa.DataType | None) -> None:
        super().__init__(f"column {column!r} holds {found}, but {expected} before")
        self.column = column
        self.expected = expected
        self.found = found


_MAX_SHOWN = 10
MAX_COLUMNS = 20_000
"""Of a file. Each column costs time in every step of a job; the setting BATCHMILL_MAX_COLUMNS may allow fewer."""


def plain(schema: pa.Schema) -> pa.Schema:
    """Return a schema without metadata, every column nullable: files that differ only in these have one schema."""
    return pa.schema([pa.field(field.name, field.type) for field in schema])


def refuse_too_many(names: Sequence[str], file: str) -> None:
    """Raise `InvalidSource` for more than `MAX_COLUMNS` columns."""
    if len(names) > MAX_COLUMNS:
        raise InvalidSource(
            f"{file} has {len(names):,} columns, at most {MAX_COLUMNS:,} are allowed.",
            hint="Put values of one kind into one list column, or split the file.",
            file=file,
        )


def refuse_doubles(names: Sequence[str], file: str) -> None:
    """Raise `InvalidSource` if a column name is there twice, or there are too many."""
    refuse_too_many(names, file)
    double = next((name for name, count in Counter(names).items() if count > 1), None)
    if double == "":
        places = [f"{place:,}" for place, name in enumerate(names, start=1) if not name]
        few = f"{', '.join(places[:_MAX_SHOWN])}{' …' if len(places) > _MAX_SHOWN else ''}"
        raise InvalidSource(
            f"{file} has {len(places):,} columns without a name: {few} (the first column is 1).",
            hint="Give each column a name, or delete separators at the end of its lines.",
            file=file,
            column="",
        )
    if double is not None:
        raise InvalidSource(
            f"{file} has two columns called {double!r}.", hint="Rename one of them.", file=file, column=double
        )


def select(schema: pa.Schema, columns: Sequence[str] | None, file: str) -> pa.Schema:
    """Only these columns of a schema, in the order asked for. Raises `InvalidSource` for one it does not have."""
    if columns is None:
        return schema
    for column in columns:
        if column not in schema.names:
            raise InvalidSource(
                f"{file} has no column {column!r}.", hint=did_you_mean(column, schema.names), file=file, column=column
            )
    return pa.schema([schema.field(column) for column in columns])


def unite(left: pa.Schema, right: pa.Schema) -> pa.Schema:
    """Return the schema that holds the rows of both: all columns of either, of the type that `unite_types` gives.

    Raises `SchemaConflictError` where two types have nothing in common.
    """
    fields = {field.name: field for field in left}
    for field in right:
        known = fields.get(field.name)
        fields[field.name] = field if known is None else pa.field(field.name, unite_types(known, field))
    return pa.schema(list(fields.values()))


def unite_types(left: pa.Field, right: pa.Field) -> pa.DataType:
    """Unite the types of two columns of one name. Raises `SchemaConflictError` if there is none."""
    united = widen_types(left.type, right.type)
    if united is None:
        raise SchemaConflictError(left.name, left.type, right.type)
    return united


def agree(left: pa.Schema, right: pa.Schema) -> pa.Schema:
    """Return the one schema of two files that state their types: the same columns, types that widen.

    Raises `SchemaConflictError` for a column that one of them lacks, or whose types have nothing in common.
    """
    for missing, there in ((right, left), (left, right)):
        for field in there:
            if field.name not in missing.names:
                found = (field.type, None) if missing is right else (pa.null(), field.type)
                raise SchemaConflictError(field.name, *found)
    return unite(left, right)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with exactly this schema; a column that it lacks is null.

    Raises `ValueError` for a value that does not fit its column's type.
    """
    for field in schema:
        if field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    table = table.select(schema.names)
    return table if table.schema.equals(schema, check_metadata=True) else table.cast(schema)
