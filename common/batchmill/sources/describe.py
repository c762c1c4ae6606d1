"""Validates a source when a job is submitted, so that what is wrong with it is reported before anything is stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from pyarrow import parquet as pq

from batchmill.columns import UnsupportedColumnError, carried_schema
from batchmill.errors import InvalidRows, InvalidSource
from batchmill.sources.arrow import read_index
from batchmill.sources.binary import SCHEMA as BINARY_SCHEMA
from batchmill.sources.description import SourceDescription, SourceFile, encode_schema, total_size
from batchmill.sources.formats import PlainTextFormat
from batchmill.sources.lines import make_format, read_header, refuse_other_header
from batchmill.sources.listing import list_files
from batchmill.sources.opening import open_file, reading, real_location
from batchmill.sources.scan import Scan, scan_file, scan_limit
from batchmill.sources.schemas import SchemaConflictError, agree, plain, refuse_doubles, select, unite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batchmill.job import FileSource
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location, Locations

_LOCAL_READERS = 4
_REMOTE_READERS = 16  # they wait for the network
_LOOKED_AT_CHUNKS = 10_000  # of a Parquet file
T = TypeVar("T")
R = TypeVar("R")


def describe(spec: FileSource, locations: Locations) -> SourceDescription:
    """Find the files of a source and validate them.

    Parquet and Arrow files: their footers. Text files: all of them if they are 64 MiB or less together, else the
    first MiB of each. Raises `InvalidSource`, naming the file and, in text, the line, if there are no files, one is
    outside the roots or cannot be read, a line is broken, or the files do not have one schema.
    """
    _check_columns(spec.columns)
    listing = list_files(spec, locations)
    places = [real_location(entry.location, locations) for entry in listing.entries]
    files = [
        SourceFile(name=entry.location.uri, size=entry.size, mtime_s=entry.mtime_s, codec=codec)
        for entry, codec in zip(listing.entries, listing.codecs, strict=True)
    ]
    if listing.format in ("parquet", "arrow"):
        return _describe_columnar(spec, listing.format, places, files)
    if listing.format == "binary":
        return _describe_binary(spec, files)
    return _Text(spec, listing.format, places, files).describe()


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
    places = [blobs.location(name) for name in names]
    footers = _each(_read_arrow_footer, places)
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
        name = f"uploads/{upload_id}/part-{number:08d}.arrow"
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


def _describe_columnar(
    spec: FileSource, name: Any, places: list[Location], files: list[SourceFile]
) -> SourceDescription:
    describe_one = _read_parquet_footer if name == "parquet" else _read_arrow_footer
    schema: pa.Schema | None = None
    counted = []
    for place, file, (found, rows, _) in zip(places, files, _each(describe_one, places), strict=True):
        refuse_doubles(found.names, place.uri)
        found = _carried(select(found, spec.columns, place.uri), place.uri)
        try:
            schema = found if schema is None else agree(schema, found)
        except SchemaConflictError as conflict:
            raise _disagreement(conflict, place, places[0]) from None
        counted.append(file.model_copy(update={"rows": rows}))
    return SourceDescription(
        format=name,
        where="files",
        files=tuple(counted),
        schema_base64=encode_schema(schema),
        selected=spec.columns is not None,
    )


def _carried(schema: pa.Schema, file: str) -> pa.Schema:
    try:
        return carried_schema(schema)
    except UnsupportedColumnError as error:
        raise InvalidSource(
            f"{file} has a column {error.column!r} of the type {error.kind}, which results cannot hold.",
            hint="Name the columns to read with `columns`, or convert that one.",
            file=file,
            column=error.column,
        ) from None


def _disagreement(conflict: SchemaConflictError, place: Location, first: Location) -> InvalidSource:
    column = repr(conflict.column)
    if conflict.found is None:
        what = f"{place.uri} has no column {column}, which {first.uri} has"
    elif pa.types.is_null(conflict.expected):
        what = f"{place.uri} has a column {column}, which {first.uri} has not"
    else:
        what = f"column {column} is {conflict.found} in {place.uri}, and {conflict.expected} in {first.uri}"
    return InvalidSource(
        f"{what}.",
        hint="All files of a source must have one schema: read these in jobs of their own, or name the columns that "
        "they share with `columns`.",
        file=place.uri,
        column=conflict.column,
    )


def _read_parquet_footer(place: Location) -> tuple[pa.Schema, int, int]:
    with reading(place), open_file(place) as file:
        parquet = pq.ParquetFile(file)
        _look_at_chunks(parquet.metadata)
        return plain(parquet.schema_arrow), parquet.metadata.num_rows, file.size()


def _look_at_chunks(footer: pq.FileMetaData) -> None:
    """Read what the footer says of its column chunks, as a reader of rows does: they may be encrypted or damaged."""
    groups = min(footer.num_row_groups, max(_LOOKED_AT_CHUNKS // max(footer.num_columns, 1), 1))
    for number in range(groups):
        group = footer.row_group(number)
        for column in range(group.num_columns):
            _ = group.column(column).path_in_schema


def _read_arrow_footer(place: Location) -> tuple[pa.Schema, int, int]:
    with reading(place), open_file(place, mapped=True) as file:
        schema = pa.ipc.open_file(file).schema
        return plain(schema), sum(read_index(file).rows), file.size()


class _Text:
    """Looks over the text files of one source."""

    def __init__(self, spec: FileSource, name: Any, places: list[Location], files: list[SourceFile]) -> None:
        self._columns = spec.columns
        self._name = name
        self._places = places
        self._files = files
        self._header = self._common_header() if name == "csv" else ()
        self._format = make_format(name, self._header, selected=spec.columns is not None)
        total = total_size(files)
        self._limits = [scan_limit(file, total, len(files)) for file in files]

    def describe(self) -> SourceDescription:
        """Scan all files and unite what they hold."""
        indexes = range(len(self._files))
        scans = list(_each(self._scan, indexes, remote=not self._places[0].is_local))
        schema = self._format.final_schema(self._united(scans))
        rows, size = sum(scan.rows for scan in scans), sum(scan.bytes for scan in scans)
        return SourceDescription(
            format=self._name,
            where="files",
            files=tuple(_seen(file, scan) for file, scan in zip(self._files, scans, strict=True)),
            schema_base64=encode_schema(self._select(schema, rows)),
            header=self._header if self._name == "csv" else None,
            selected=self._columns is not None,
            row_bytes=size / rows if rows else 0.0,
        )

    def _common_header(self) -> tuple[str, ...]:
        """Read the header that all CSV files have; an empty file has none."""

        def read(index: int) -> tuple[str, ...] | None:
            return read_header(self._places[index], self._files[index].size, self._files[index].codec)

        header: tuple[str, ...] = ()
        first = ""
        indexes = range(len(self._files))
        for index, found in zip(indexes, _each(read, indexes, remote=not self._places[0].is_local), strict=True):
            uri = self._places[index].uri
            if found is None:
                continue
            if not first:
                header, first = found, uri
                refuse_doubles(header, uri)
            refuse_other_header(found, header, uri, first)
        return header

    def _scan(self, index: int, known: pa.Schema | None = None) -> Scan:
        return scan_file(self._places[index], self._files[index], self._format, self._limits[index], known)

    def _united(self, scans: list[Scan]) -> pa.Schema:
        schema: pa.Schema | None = None
        for index, scan in enumerate(scans):
            if scan.schema is None:
                continue
            try:
                schema = scan.schema if schema is None else self._format.unite(schema, scan.schema)
            except SchemaConflictError as conflict:
                self._scan(index, schema)  # names the line
                raise _disagreement(conflict, self._places[index], self._places[0]) from None
        if schema is None:
            return (
                PlainTextFormat.schema
                if self._name == "text"
                else pa.schema([(name, pa.null()) for name in self._header])
            )
        return schema

    def _select(self, schema: pa.Schema, rows: int) -> pa.Schema:
        if not rows and self._columns is not None and not len(schema):
            return pa.schema([(column, pa.null()) for column in self._columns])
        return select(schema, self._columns, self._places[0].uri)


def _seen(file: SourceFile, scan: Scan) -> SourceFile:
    if scan.is_whole:
        return file.model_copy(update={"rows": scan.rows})
    return file.model_copy(update={"expansion": scan.bytes / max(scan.stored, 1) if file.codec else 1.0})


def _each(describe_one: Callable[[T], R], items: Sequence[T], *, remote: bool | None = None) -> Iterable[R]:
    """Call `describe_one` for each, several at once; results and the first error are in the order of the items."""
    if remote is None:
        remote = bool(items) and not getattr(items[0], "is_local", True)
    with ThreadPoolExecutor(_REMOTE_READERS if remote else _LOCAL_READERS) as pool:
        yield from pool.map(describe_one, items)
