"""One version of a table of Delta Lake or Iceberg: its current files, which never change, and its columns."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.error_text import first_line
from batchmill.errors import BatchmillError, InvalidSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.storage.locations import Location


@dataclass(frozen=True, slots=True)
class TableFile:
    """A Parquet file of a table. values: of the partition columns, the same for all of its rows."""

    location: Location
    values: dict[str, pa.Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """What a table has at a version."""

    kind: str  # as users know it
    uri: str
    version: int  # of Delta Lake; the id of a snapshot of Iceberg
    schema: pa.Schema
    files: tuple[TableFile, ...]
    field_ids: dict[str, int] | None = None  # of Iceberg, by the path of the column; None: columns go by their names


def missing_package(kind: str, uri: str, extra: str) -> InvalidSource:
    """The error for a table of a format whose package is not installed."""
    return InvalidSource(
        f"{uri} is {kind} table, and the service lacks the package that reads its log.",
        hint=f"Install batchmill[{extra}] where the coordinator runs, or give the source the table's current files.",
        file=uri,
    )


def not_read(kind: str, uri: str, what: str, hint: str) -> InvalidSource:
    """The error for a table with something that is not read: a clause that begins with a verb."""
    return InvalidSource(f"the {kind} table {uri} {what}.", hint=hint, file=uri)


@contextmanager
def reading_table(kind: str, uri: str) -> Iterator[None]:
    """Turn whatever a library raises over a table into an error that names it."""
    try:
        yield
    except (BatchmillError, MemoryError):
        raise
    except Exception as error:  # the libraries document no set of errors
        reason = first_line(error)[:500]
        raise not_read(kind, uri, f"cannot be read: {reason}", "Check that it is complete.") from error


def usual_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with one form of each type: text, bytes and lists have 32-bit offsets."""
    return pa.schema([pa.field(one.name, _usual_type(one.type)) for one in schema])


def _usual_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_usual_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_usual_type(kind.key_type), _usual_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _usual_type(one.type)) for one in nested_fields(kind)])
    return kind


def nested_fields(kind: pa.DataType) -> list[pa.Field]:
    """Return what a type is made of, under the names that Iceberg gives it."""
    if pa.types.is_struct(kind):
        return [kind.field(place) for place in range(kind.num_fields)]
    if pa.types.is_map(kind):
        return [kind.key_field.with_name("key"), kind.item_field.with_name("value")]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [kind.value_field.with_name("element")]
    return []
