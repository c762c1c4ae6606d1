"""Validates text files: all of them, or the beginning of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import encode_schema
from batchmill.errors import InvalidSource, did_you_mean
from batchmill.jobs.files import CsvDialect
from batchmill.sources.describing.describe_files import disagreement, each_of, nothing_readable
from batchmill.sources.describing.scan import Scan, ScanTask, scan_limit
from batchmill.sources.description import SourceDescription, SourceFile, total_size
from batchmill.sources.file_columns import with_file_columns
from batchmill.sources.files.opening import UnreadableFile, fault_of
from batchmill.sources.formats.line_format import PlainTextFormat
from batchmill.sources.schemas import SchemaConflictError, refuse_doubles, select
from batchmill.sources.text.lines import FormatOptions, make_format, read_header, refuse_other_header
from batchmill.sources.type_names import types_of

if TYPE_CHECKING:
    from batchmill.jobs.files import FileSource
    from batchmill.sources.files.listing import Listing
    from batchmill.storage.locations import Location


class TextFiles:
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
        scans = list(each_of(self._scan, indexes, remote=not self._places[0].is_local))
        schema = self._format.final_schema(self._united(scans))
        self._check_given(schema)
        rows, size = sum(scan.rows for scan in scans), sum(scan.bytes for scan in scans)
        if rows and self._keeps_bad_rows and not len(schema):
            raise nothing_readable(self._files[0].name)
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
        for index, found in zip(indexes, each_of(read, indexes, remote=not self._places[0].is_local), strict=True):
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
                    raise disagreement(conflict, self._places[index], self._places[0]) from None
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
