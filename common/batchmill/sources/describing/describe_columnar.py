"""Validates Parquet and Arrow files by their footers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet as pq

from batchmill.columns import UnsupportedColumnError, carried_schema, encode_schema
from batchmill.errors import InvalidSource
from batchmill.sources.columnar.arrow import read_any_index, read_index
from batchmill.sources.columnar.parquet import INT96_UNIT, group_rows
from batchmill.sources.describing.describe_files import disagreement, each_of, nothing_readable
from batchmill.sources.description import SourceDescription, SourceFile
from batchmill.sources.file_columns import with_file_columns
from batchmill.sources.files.opening import UnreadableFile, fault_of, open_file, open_part, reading
from batchmill.sources.schemas import SchemaConflictError, agree, plain, refuse_doubles, select, unite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.files import FileSource
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location

_LOOKED_AT_CHUNKS = 10_000  # of a Parquet file


def describe_columnar(
    spec: FileSource, name: Any, places: list[Location], files: list[SourceFile]
) -> SourceDescription:
    """Read the footers of all files and unite their schemas. Raises as `describe` does."""
    footers = read_footers(name, places, keeps_bad_rows=spec.on_bad_line == "dead")
    file_columns = with_file_columns(pa.schema([]), spec, [file.name for file in files])[0].names
    schema: pa.Schema | None = None
    for place, footer in zip(places, footers, strict=True):
        if footer.fault:
            continue
        refuse_doubles(footer.schema.names, place.uri)
        found = carried_columns(_selected(spec, plain(footer.schema), file_columns, place.uri), place.uri)
        try:
            schema = found if schema is None else (unite if spec.missing_columns == "null" else agree)(schema, found)
        except SchemaConflictError as conflict:
            raise disagreement(conflict, place, places[0]) from None
    if schema is None:
        raise nothing_readable(files[0].name)
    complete, hive = with_file_columns(schema, spec, [file.name for file in files])
    counted = [
        file.model_copy(update={"rows": footer.rows, "fault": footer.fault, "is_readable": not footer.fault})
        for file, footer in zip(files, footers, strict=True)
    ]
    complete = select(complete, spec.columns, places[0].uri)
    return SourceDescription(
        format=name,
        where="files",
        files=tuple(counted),
        schema_base64=encode_schema(complete),
        selected=spec.columns is not None,
        hive_columns=tuple(column for column in hive if column in complete.names),
        path_column=spec.path_column if spec.path_column in complete.names else None,
        keeps_bad_rows=spec.on_bad_line == "dead",
    )


def carried_columns(schema: pa.Schema, file: str, only: Sequence[str] | None = None) -> pa.Schema:
    """Return the schema, or `only` some of its columns, with the types that reading gives.

    Raises `InvalidSource` for a column that results cannot hold.
    """
    try:
        return carried_schema(schema if only is None else pa.schema([one for one in schema if one.name in only]))
    except UnsupportedColumnError as error:
        raise InvalidSource(
            f"{file} has a column {error.column!r} of the type {error.kind}, which results cannot hold.",
            hint="Name the columns to read with `columns`, or convert that one.",
            file=file,
            column=error.column,
        ) from None


def _selected(spec: FileSource, found: pa.Schema, elsewhere: Sequence[str], uri: str) -> pa.Schema:
    """Only the columns that are asked for, of those in a file."""
    if spec.columns is None:
        return found
    wanted = [column for column in spec.columns if column in found.names or column not in elsewhere]
    if spec.missing_columns == "null":
        wanted = [column for column in wanted if column in found.names]
    return select(found, wanted, uri)


@dataclass(frozen=True, slots=True)
class Footer:
    """What the footer of a file says."""

    schema: pa.Schema  # of Parquet with its metadata, in which the columns have ids
    rows: int
    size: int
    fault: str = ""  # why there is none; the file then counts as a row


def read_footers(name: str, places: Sequence[Location], *, keeps_bad_rows: bool) -> list[Footer]:
    """Read the footers of Parquet or Arrow files. Raises `UnreadableFile`, unless the source keeps bad rows."""
    read_footer = _read_parquet_footer if name == "parquet" else _read_arrow_footer

    def read(place: Location) -> Footer:
        try:
            return Footer(*read_footer(place))
        except UnreadableFile as fault:
            if not keeps_bad_rows:
                raise
            return Footer(pa.schema([]), 1, 0, fault_of(fault))

    return list(each_of(read, places))


def _read_parquet_footer(place: Location) -> tuple[pa.Schema, int, int]:
    with reading(place), open_file(place) as file:
        parquet = pq.ParquetFile(file, coerce_int96_timestamp_unit=INT96_UNIT)
        _look_at_chunks(parquet.metadata)
        plain(parquet.schema_arrow)  # raises for a name that is not UTF-8
        return parquet.schema_arrow, sum(group_rows(parquet.metadata)), file.size()


def _look_at_chunks(footer: pq.FileMetaData) -> None:
    """Read what the footer says of its column chunks, as a reader of rows does: they may be encrypted or damaged."""
    groups = min(footer.num_row_groups, max(_LOOKED_AT_CHUNKS // max(footer.num_columns, 1), 1))
    for number in range(groups):
        group = footer.row_group(number)
        for column in range(group.num_columns):
            _ = group.column(column).path_in_schema


def _read_arrow_footer(place: Location) -> tuple[pa.Schema, int, int]:
    with reading(place), open_file(place) as file:
        index = read_any_index(file)
        return plain(index.schema), sum(index.rows), file.size()


def read_part_footer(blobs: BlobStore, name: str) -> tuple[pa.Schema, int, int]:
    """Return the schema of a part of an upload, its number of rows and its size in bytes."""
    with reading(blobs.location(name)), open_part(blobs, name) as file:
        index = read_index(file)
        return plain(index.schema), sum(index.rows), file.size()
