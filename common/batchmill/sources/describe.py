"""Validates a source when a job is submitted, so that what is wrong with it is reported before anything is stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from pyarrow import parquet as pq

from batchmill.columns import UnsupportedColumnError, carried_schema
from batchmill.errors import InvalidRows, InvalidSource, did_you_mean
from batchmill.job import MAX_FILE_BYTES, CsvDialect
from batchmill.sources.arrow import read_index
from batchmill.sources.binary import SCHEMA as BINARY_SCHEMA
from batchmill.sources.csv_format import check_dialect
from batchmill.sources.description import SourceDescription, SourceFile, encode_schema, total_size
from batchmill.sources.file_columns import with_file_columns
from batchmill.sources.formats import PlainTextFormat
from batchmill.sources.lines import FormatOptions, make_format, read_header, refuse_other_header
from batchmill.sources.listing import list_files
from batchmill.sources.opening import UnreadableFile, fault_of, open_file, open_part, reading, real_location
from batchmill.sources.parquet import INT96_UNIT, group_rows
from batchmill.sources.scan import Scan, ScanTask, scan_limit
from batchmill.sources.schemas import SchemaConflictError, agree, plain, refuse_doubles, select, unite
from batchmill.sources.type_names import types_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batchmill.job import FileSource
    from batchmill.sources.listing import Listing
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
    types_of(spec.types)
    if spec.csv is not None:
        check_dialect(spec.csv)
    listing = list_files(spec, locations)
    _check_options(spec, listing.format)
    places = [real_location(entry.location, locations) for entry in listing.entries]
    files = [
        SourceFile(name=entry.location.uri, size=entry.size, mtime_s=entry.mtime_s, codec=codec)
        for entry, codec in zip(listing.entries, listing.codecs, strict=True)
    ]
    if listing.format in ("parquet", "arrow"):
        return _describe_columnar(spec, listing.format, places, files)
    if listing.format == "binary":
        return _describe_binary(spec, files)
    return _Text(spec, listing, places, files).describe()


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
    footers = _each(lambda name: _read_part_footer(blobs, name), names, remote=not blobs.root.is_local)
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


def _describe_columnar(
    spec: FileSource, name: Any, places: list[Location], files: list[SourceFile]
) -> SourceDescription:
    footers = list(_each(_footer_reader(name, keeps_bad_rows=spec.on_bad_line == "dead"), places))
    file_columns = with_file_columns(pa.schema([]), spec, [file.name for file in files])[0].names
    schema: pa.Schema | None = None
    for place, footer in zip(places, footers, strict=True):
        if footer.fault:
            continue
        refuse_doubles(footer.schema.names, place.uri)
        found = _carried(_selected(spec, footer.schema, file_columns, place.uri), place.uri)
        try:
            schema = found if schema is None else (unite if spec.missing_columns == "null" else agree)(schema, found)
        except SchemaConflictError as conflict:
            raise _disagreement(conflict, place, places[0]) from None
    if schema is None:
        raise _nothing_readable(files[0].name)
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


def _nothing_readable(first: str) -> InvalidSource:
    return InvalidSource(
        f"no row of the source can be read, from {first} on.",
        hint='Set `on_bad_line` to "fail" to see what is wrong with the first.',
        file=first,
    )


def _selected(spec: FileSource, found: pa.Schema, elsewhere: Sequence[str], uri: str) -> pa.Schema:
    """Only the columns that are asked for, of those in a file."""
    if spec.columns is None:
        return found
    wanted = [column for column in spec.columns if column in found.names or column not in elsewhere]
    if spec.missing_columns == "null":
        wanted = [column for column in wanted if column in found.names]
    return select(found, wanted, uri)


@dataclass(frozen=True, slots=True)
class _Footer:
    schema: pa.Schema
    rows: int
    size: int
    fault: str = ""  # why there is none; the file then counts as a row


def _footer_reader(name: str, *, keeps_bad_rows: bool) -> Callable[[Location], _Footer]:
    read_footer = _read_parquet_footer if name == "parquet" else _read_arrow_footer

    def read(place: Location) -> _Footer:
        try:
            return _Footer(*read_footer(place))
        except UnreadableFile as fault:
            if not keeps_bad_rows:
                raise
            return _Footer(pa.schema([]), 1, 0, fault_of(fault))

    return read


def _disagreement(conflict: SchemaConflictError, place: Location, first: Location) -> InvalidSource:
    column = repr(conflict.column)
    hint = (
        "Types must widen to one without loss: read these files in jobs of their own, or name the columns that they "
        "share with `columns`."
    )
    if conflict.found is None:
        what = f"{place.uri} has no column {column}, which {first.uri} has"
        hint = 'Set `missing_columns` to "null" to read it as null there, or name the shared columns with `columns`.'
    elif pa.types.is_null(conflict.expected):
        what = f"{place.uri} has a column {column}, which {first.uri} has not"
        hint = 'Set `missing_columns` to "null" to read it as null there, or name the shared columns with `columns`.'
    else:
        what = f"column {column} is {conflict.found} in {place.uri}, and {conflict.expected} in {first.uri}"
    return InvalidSource(
        f"{what}.",
        hint=hint,
        file=place.uri,
        column=conflict.column,
    )


def _read_parquet_footer(place: Location) -> tuple[pa.Schema, int, int]:
    with reading(place), open_file(place) as file:
        parquet = pq.ParquetFile(file, coerce_int96_timestamp_unit=INT96_UNIT)
        _look_at_chunks(parquet.metadata)
        return plain(parquet.schema_arrow), sum(group_rows(parquet.metadata)), file.size()


def _look_at_chunks(footer: pq.FileMetaData) -> None:
    """Read what the footer says of its column chunks, as a reader of rows does: they may be encrypted or damaged."""
    groups = min(footer.num_row_groups, max(_LOOKED_AT_CHUNKS // max(footer.num_columns, 1), 1))
    for number in range(groups):
        group = footer.row_group(number)
        for column in range(group.num_columns):
            _ = group.column(column).path_in_schema


def _read_arrow_footer(place: Location) -> tuple[pa.Schema, int, int]:
    with reading(place), open_file(place, mapped=True) as file:
        return _arrow_footer(file)


def _read_part_footer(blobs: BlobStore, name: str) -> tuple[pa.Schema, int, int]:
    with reading(blobs.location(name)), open_part(blobs, name) as file:
        return _arrow_footer(file)


def _arrow_footer(file: pa.NativeFile) -> tuple[pa.Schema, int, int]:
    return plain(pa.ipc.open_file(file).schema), sum(read_index(file).rows), file.size()


class _Text:
    """Looks over the text files of one source."""

    def __init__(self, spec: FileSource, listing: Listing, places: list[Location], files: list[SourceFile]) -> None:
        self._spec = spec
        self._name = listing.format
        self._places = places
        self._files = files
        self._keeps_bad_rows = spec.on_bad_line == "dead"
        self._dialect = _dialect(spec, listing) if listing.format == "csv" else None
        self._header = self._columns_of(self._dialect) if self._dialect else ()
        names = [file.name for file in files]
        self._elsewhere = with_file_columns(pa.schema([]), spec, names)[0].names
        selected = None if spec.columns is None else [name for name in spec.columns if name not in self._elsewhere]
        options = FormatOptions(self._dialect, types_of(spec.types), spec.json_text or ())
        self._format = make_format(self._name, self._header, spec.columns and selected, options)
        self._scanner = ScanTask(self._format, self._keeps_bad_rows)
        total = total_size(files)
        self._limits = [scan_limit(file, total, len(files)) for file in files]

    def describe(self) -> SourceDescription:
        """Scan all files and unite what they hold."""
        indexes = range(len(self._files))
        scans = list(_each(self._scan, indexes, remote=not self._places[0].is_local))
        schema = self._format.final_schema(self._united(scans))
        self._check_given(schema)
        rows, size = sum(scan.rows for scan in scans), sum(scan.bytes for scan in scans)
        if rows and self._keeps_bad_rows and not len(schema):
            raise _nothing_readable(self._files[0].name)
        complete, hive = with_file_columns(schema, self._spec, [file.name for file in self._files])
        complete = self._select(complete, rows)
        return SourceDescription(
            format=self._name,
            where="files",
            files=tuple(_seen(file, scan) for file, scan in zip(self._files, scans, strict=True)),
            schema_base64=encode_schema(complete),
            header=self._header if self._name == "csv" else None,
            selected=self._spec.columns is not None,
            csv=self._dialect,
            types=self._spec.types or {},
            json_text=tuple(self._spec.json_text or ()),
            keeps_bad_rows=self._keeps_bad_rows,
            hive_columns=tuple(column for column in hive if column in complete.names),
            path_column=self._spec.path_column if self._spec.path_column in complete.names else None,
            row_bytes=size / rows if rows else 0.0,
        )

    def _columns_of(self, dialect: CsvDialect) -> tuple[str, ...]:
        """Return the columns of all CSV files: those in their first record, or those that the user names."""
        if isinstance(dialect.header, list):
            refuse_doubles(dialect.header, "`csv.header`")
            return tuple(dialect.header)
        first, uri = self._common_header(dialect)
        if dialect.header is False:
            return tuple(f"column_{number}" for number in range(len(first)))
        _refuse_other_delimiter(first, uri, dialect)
        refuse_doubles(first, uri)
        return first

    def _common_header(self, dialect: CsvDialect) -> tuple[tuple[str, ...], str]:
        """Read the first record of each file, an empty one has none; return the first, and the file it is in."""

        def read(index: int) -> tuple[str, ...] | UnreadableFile | None:
            file = self._files[index]
            try:
                return read_header(self._places[index], file.size, file.codec, dialect)
            except UnreadableFile as fault:
                if not self._keeps_bad_rows:
                    raise
                return fault

        header: tuple[str, ...] = ()
        first = ""
        indexes = range(len(self._files))
        for index, found in zip(indexes, _each(read, indexes, remote=not self._places[0].is_local), strict=True):
            uri = self._places[index].uri
            if isinstance(found, UnreadableFile):
                update = {"is_readable": False, "fault": fault_of(found), "rows": 1}
                self._files[index] = self._files[index].model_copy(update=update)
            elif found is not None and not first:
                header, first = found, uri
            elif found is not None and dialect.header is True:
                refuse_other_header(found, header, uri, first)
        return header, first

    def _scan(self, index: int, known: pa.Schema | None = None) -> Scan:
        if not self._files[index].is_readable:
            return Scan(known, 1, 0, 0, is_complete=True)
        return self._scanner.scan(self._places[index], self._files[index], self._limits[index], known)

    def _united(self, scans: list[Scan]) -> pa.Schema:
        schema: pa.Schema | None = None
        for index, scan in enumerate(scans):
            if scan.schema is None:
                continue
            try:
                schema = scan.schema if schema is None else self._format.unite(schema, scan.schema)
            except SchemaConflictError as conflict:
                again = self._scan(index, schema)  # names the line, or passes over it
                if not self._keeps_bad_rows:
                    raise _disagreement(conflict, self._places[index], self._places[0]) from None
                schema = again.schema
        if schema is None:
            return (
                PlainTextFormat.schema
                if self._name == "text"
                else pa.schema([(name, pa.null()) for name in self._header])
            )
        return schema

    def _check_given(self, schema: pa.Schema) -> None:
        """Raise `InvalidSource` for a type that is given to a column of CSV that is not there."""
        for column in [*(self._spec.types or ()), *(self._spec.json_text or ())]:
            if self._name == "csv" and self._header and column not in schema.names:
                hint = did_you_mean(column, schema.names)
                raise InvalidSource(f"schema: the source has no column {column!r}.", hint=hint, column=column)

    def _select(self, schema: pa.Schema, rows: int) -> pa.Schema:
        columns = self._spec.columns
        if not rows and columns is not None and not set(schema.names) - set(self._elsewhere):
            missing = [pa.field(column, pa.null()) for column in columns if column not in schema.names]
            schema = pa.schema([*schema, *missing])
        return select(schema, columns, self._places[0].uri)


def _dialect(spec: FileSource, listing: Listing) -> CsvDialect:
    dialect = spec.csv or CsvDialect()
    if listing.is_tab_separated and "delimiter" not in dialect.model_fields_set:
        return dialect.model_copy(update={"delimiter": "\t"})
    return dialect


def _refuse_other_delimiter(header: tuple[str, ...], uri: str, dialect: CsvDialect) -> None:
    """Raise `InvalidSource` if a header of one column looks like one of several, unless the user gave the delimiter."""
    other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if other is not None and "delimiter" not in dialect.model_fields_set:
        raise InvalidSource(
            f"{uri} has one column, {header[0][:80]!r}, whose name contains {other!r}.",
            hint=f"If its values are separated by {other!r}, give the source csv={{'delimiter': {other!r}}} "
            f"(--delimiter in the shell); if it has one column, give the delimiter ','.",
            file=uri,
            field="csv.delimiter",
        )


def _seen(file: SourceFile, scan: Scan) -> SourceFile:
    if scan.is_complete:
        fault = fault_of(scan.fault) if scan.fault else file.fault
        return file.model_copy(update={"rows": scan.rows, "fault": fault})
    return file.model_copy(update={"expansion": scan.bytes / max(scan.stored, 1) if file.codec else 1.0})


def _each(describe_one: Callable[[T], R], items: Sequence[T], *, remote: bool | None = None) -> Iterable[R]:
    """Call `describe_one` for each, several at once; results and the first error are in the order of the items."""
    if remote is None:
        remote = bool(items) and not getattr(items[0], "is_local", True)
    with ThreadPoolExecutor(_REMOTE_READERS if remote else _LOCAL_READERS) as pool:
        yield from pool.map(describe_one, items)
