"""How the types of a column widen when rows of several places are put together: always to one that loses nothing.

Null gives way to any type, a number to a wider one, a list of one size to a list, a unit of time to a finer one; a
struct gets the fields of both. A column never changes its kind: text stays text, and bytes stay bytes. Integers may
become floats; values that a float cannot hold exactly are refused when the table is widened.
"""

from __future__ import annotations

import pyarrow as pa

_types = pa.types


class TypeConflictError(TypeError):
    """A column has two types that no type holds both of, or a value that does not fit the wider one."""

    def __init__(self, column: str, known: pa.DataType, found: pa.DataType, reason: str = "") -> None:
        super().__init__(f"column {column!r} is {found} here and {known} elsewhere{reason and f': {reason}'}")
        self.column = column
        self.known = known
        self.found = found


def widen_types(known: pa.DataType, found: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both, or None if one would change its kind."""
    if known.equals(found):
        return known
    if _types.is_dictionary(known) or _types.is_dictionary(found):
        return widen_types(_decoded(known), _decoded(found))
    try:
        schemas = [pa.schema([("", known)]), pa.schema([("", found)])]
        widened = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    is_text_kept = max(_text_leaves(known), _text_leaves(found)) <= _text_leaves(widened)
    return widened if is_text_kept else None


def widen_schemas(known: pa.Schema, found: pa.Schema) -> pa.Schema:
    """Return the schema that holds the rows of both: the columns of the first, then those that only the second has.

    Raises `TypeConflictError`.
    """
    kinds = {field.name: field.type for field in known}
    for field in found:
        before = kinds.setdefault(field.name, field.type)
        widened = widen_types(before, field.type)
        if widened is None:
            raise TypeConflictError(field.name, before, field.type)
        kinds[field.name] = widened
    return pa.schema(list(kinds.items()))


def widen_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly this schema; a column that it lacks is null.

    Raises `TypeConflictError` for a value that does not fit.
    """
    if table.schema.equals(schema):
        return table
    names = set(table.column_names)
    columns = [
        _cast(table.column(field.name), field) if field.name in names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column if column.type.equals(field.type) else column.cast(field.type)
    except pa.ArrowException as error:
        raise TypeConflictError(field.name, field.type, column.type, str(error).splitlines()[0]) from error


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _types.is_dictionary(kind) else kind


def _text_leaves(kind: pa.DataType) -> int:
    """Count the places in a type that hold text."""
    if _types.is_nested(kind):
        return sum(_text_leaves(kind.field(place).type) for place in range(kind.num_fields))
    return int(_types.is_string(kind) or _types.is_large_string(kind))
