"""Validates a source when a job is submitted, so that what is wrong with it is reported before anything is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import UnsupportedColumnError, carried_schema, encode_schema
from batchmill.errors import InvalidRows, InvalidSource
from batchmill.jobs.files import MAX_FILE_BYTES, upload_part
from batchmill.sources.binary import SCHEMA as BINARY_SCHEMA
from batchmill.sources.describing.counting import with_all_rows_counted
from batchmill.sources.describing.describe_columnar import describe_columnar, read_part_footer
from batchmill.sources.describing.describe_files import each_of
from batchmill.sources.describing.describe_table import describe_table, find_table
from batchmill.sources.describing.describe_text import TextFiles
from batchmill.sources.description import SourceDescription, SourceFile
from batchmill.sources.files.listing import list_files
from batchmill.sources.files.opening import real_location
from batchmill.sources.formats.csv_format import check_dialect
from batchmill.sources.schemas import SchemaConflictError, refuse_doubles, select, unite
from batchmill.sources.type_names import types_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.files import FileSource
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Locations


def describe(spec: FileSource, locations: Locations) -> SourceDescription:
    """Find the files of a source and validate them.

    Parquet and Arrow files: their footers. Text files: all of them if they are 64 MiB or less together, else the
    first MiB of each; for a sample of a number of rows, the rows of all are counted. Raises `InvalidSource`, naming the
    file and, in text, the line, if there are no files, one is outside the roots or cannot be read, a line is broken, or
    the files do not have one schema.
    """
    _check_columns(spec.columns)
    types_of(spec.types)
    if spec.csv is not None:
        check_dialect(spec.csv)
    table = find_table(spec, locations)
    if table is not None:
        _check_options(spec, "parquet")
        described = describe_table(spec, table, locations)
    else:
        described = _describe(spec, locations)
    if isinstance(spec.sample, int) and described.rows is None:
        described = with_all_rows_counted(described, locations)
    return described.model_copy(update={"limit": spec.limit, "sample": spec.sample, "seed": spec.seed})


def _describe(spec: FileSource, locations: Locations) -> SourceDescription:
    if spec.table_version is not None:
        raise InvalidSource(
            "table_version: the source is no table of Delta Lake or Iceberg.",
            hint="Leave it out.",
            field="table_version",
        )
    listing = list_files(spec, locations)
    _check_options(spec, listing.format)
    places = [real_location(entry.location, locations) for entry in listing.entries]
    files = [
        SourceFile(name=entry.location.uri, size=entry.size, mtime_s=entry.mtime_s, codec=codec)
        for entry, codec in zip(listing.entries, listing.codecs, strict=True)
    ]
    if listing.format in ("parquet", "arrow"):
        return describe_columnar(spec, listing.format, places, files)
    if listing.format == "binary":
        return _describe_binary(spec, files)
    return TextFiles(spec, listing, places, files).describe()


def _describe_binary(spec: FileSource, files: list[SourceFile]) -> SourceDescription:
    return SourceDescription(
        format="binary",
        where="files",
        files=tuple(file.model_copy(update={"rows": 1}) for file in files),
        schema_base64=encode_schema(select(BINARY_SCHEMA, spec.columns, files[0].name)),
        selected=spec.columns is not None,
        max_file_bytes=spec.max_file_bytes,
    )


def describe_upload(blobs: BlobStore, upload_id: str, parts: int) -> SourceDescription:
    """Validate the parts 0 to `parts` - 1 of an upload.

    Columns that one part lacks, or has only nulls in, take their type from another; integers give way to fractions.
    Raises `InvalidSource` for a part that is missing or damaged, `InvalidRows` for a part whose rows have another
    type than those before, naming the first row of that part.
    """
    names = _part_names(blobs, upload_id, parts)
    footers = each_of(lambda name: read_part_footer(blobs, name), names, remote=not blobs.root.is_local)
    schema, files, first_row = pa.schema([]), [], 0
    for name, (found, rows, size) in zip(names, footers, strict=True):
        try:
            schema = unite(schema, carried_schema(found))
        except UnsupportedColumnError as error:
            raise InvalidRows(
                f"the rows from {first_row:,} on have a column {error.column!r} of the type {error.kind}, "
                "which results cannot hold.",
                hint="Convert the column, or leave it out.",
                row=first_row,
                column=error.column,
            ) from None
        except SchemaConflictError as conflict:
            raise InvalidRows(
                f"the rows from {first_row:,} on hold {conflict.found} in column {conflict.column!r}, "
                f"those before hold {conflict.expected}.",
                hint="Give the column one type in all rows.",
                row=first_row,
                column=conflict.column,
            ) from None
        files.append(SourceFile(name=name, size=size, rows=rows))
        first_row += rows
    return SourceDescription(format="arrow", where="blobs", files=tuple(files), schema_base64=encode_schema(schema))


def _part_names(blobs: BlobStore, upload_id: str, parts: int) -> list[str]:
    there = set(blobs.list(f"uploads/{upload_id}")) if parts else set()
    names = []
    for number in range(parts):
        name = upload_part(upload_id, number)
        if name not in there:
            raise InvalidSource(
                f"part {number} of upload {upload_id!r} is missing; expected the parts 0 to {parts - 1}.",
                hint="Upload every part before the job is submitted.",
                upload=upload_id,
                part=number,
            )
        names.append(name)
    return names


def _check_columns(columns: Sequence[str] | None) -> None:
    if columns is not None and not columns:
        raise InvalidSource("`columns` is empty.", hint="Name at least one column, or leave `columns` out to read all.")
    refuse_doubles(columns or (), "`columns`")


def _check_options(spec: FileSource, form: str) -> None:
    """Raise `InvalidSource` for an option that files of this format do not have."""
    for option, given, forms in (
        ("csv", spec.csv, ("csv",)),
        ("schema", spec.types, ("csv", "jsonl")),
        ("json_text", spec.json_text, ("jsonl",)),
        ("path_column", spec.path_column, ("parquet", "jsonl", "csv", "arrow", "text")),
        ("max_file_bytes", spec.max_file_bytes != MAX_FILE_BYTES, ("binary",)),
    ):
        if given and form not in forms:
            raise InvalidSource(
                f"{option}: the source is {form}; expected {' or '.join(forms)}.", hint="Leave it out.", field=option
            )
