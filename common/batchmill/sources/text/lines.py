"""Sources of text: JSON Lines, CSV and plain text, split at byte offsets.

A compressed file cannot be read from its middle. The splitter decompresses it once, from its beginning, and stores the
text of each slice in the blob store, where workers read it (`Slice.staged`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from batchmill.errors import InvalidSource
from batchmill.jobs.files import CsvDialect
from batchmill.jobs.shard import Slice
from batchmill.sources.base import (
    MAX_SLICES,
    BadRow,
    End,
    InputSplit,
    NextSplit,
    RowCount,
    RowsRead,
    Source,
    Splitter,
    by_slice,
    join_rows,
    null_rows,
)
from batchmill.sources.cursor import SourceCursor
from batchmill.sources.file_columns import FileColumns
from batchmill.sources.files.opening import UnreadableFile, unreadable
from batchmill.sources.formats.csv_format import CsvFormat, csv_layout, parse_record
from batchmill.sources.formats.json_format import JsonLinesFormat
from batchmill.sources.formats.line_format import LineFormat, PlainTextFormat
from batchmill.sources.text.bad_rows import read_good_rows
from batchmill.sources.text.faults import RecordBlock, RecordPlaces, broken_while_read
from batchmill.sources.text.text_ranges import Blocks, TextRange, TextRangeReader
from batchmill.sources.type_names import types_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from batchmill.sources.description import Codec, SourceDescription
    from batchmill.sources.files.opening import SourceFiles
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location

_HEADER_BYTES = 1024 * 1024


class LineSource(Source):
    """Text files. Slices are byte offsets of a file, or of a staged blob that holds the slice alone."""

    def __init__(self, description: SourceDescription, files: SourceFiles, blobs: BlobStore, staging: str) -> None:
        self.schema = description.arrow_schema
        self._files = files
        self._blobs = blobs
        self._staging = staging
        self._format = line_format(description)
        self._columns = FileColumns(description)
        self._file_schema = description.file_schema
        self._keeps_bad_rows = description.keeps_bad_rows
        self._sizes = TextSizes(description)

    def count(self, cursor: str) -> RowCount:
        """Exact at the end, and where all files were read when they were described; else by the bytes left."""
        return self._sizes.count(SourceCursor.parse(cursor))

    def splitter(self, cursor: str = "") -> LineSplitter:
        """Split from a cursor on; of a compressed file, everything before it is decompressed again."""
        staging = Staging(self._blobs, self._staging)
        place = SourceCursor.parse(cursor)
        return LineSplitter(self._files, self._format, place, staging, keeps_bad_rows=self._keeps_bad_rows)

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """Parse the rows of these slices."""
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: Sequence[Slice]) -> RowsRead:
        """Parse the rows of these slices, and list those that do not parse, if the source's options allow that."""
        return join_rows([self._read(one) for one in slices], self.schema)

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:
        """See `Source`. The text of slices that have such rows is read again."""
        found: list[str] = []
        for one, own in zip(slices, by_slice([one.rows for one in slices], places), strict=True):
            uri = self._files.entries[one.file].name
            lines = (
                RecordPlaces(RecordBlock(uri, one.line, one.rows, self._load(one)), self._format.layout)
                if own
                else None
            )
            found += [f"{uri}, line {lines.line(place)}" for place in own if lines is not None]
        return found

    def _read(self, one: Slice) -> RowsRead:
        found = self._unreadable(one) if one.start == one.stop else self._parse(one)
        table = self._columns.add(found.table, self._files.entries[one.file])
        return RowsRead(table, found.bad)

    def _unreadable(self, one: Slice) -> RowsRead:
        reason = self._files.entries[one.file].fault or "it cannot be read from this line on"
        bad = BadRow(0, self._files.locate(one.file).uri, one.line, "", reason)
        return RowsRead(null_rows(self._file_schema, 1), (bad,))

    def _parse(self, one: Slice) -> RowsRead:
        block = RecordBlock(self._files.locate(one.file).uri, one.line, one.rows, self._load(one))
        try:
            if self._keeps_bad_rows:
                return read_good_rows(block, self._format, self._file_schema)
            return RowsRead(self._format.parse(block.data, one.rows, self._file_schema))
        except ValueError as error:
            raise broken_while_read(block, self._format, self._file_schema, error) from error

    def _load(self, one: Slice) -> pa.Buffer:
        size = one.stop - one.start
        if one.staged:
            return self._blobs.get(one.staged).slice(one.start, size)
        return self._files.read_at(one.file, one.start, size)


@dataclass(frozen=True, slots=True)
class Staging:
    """Where the text of compressed files is stored."""

    blobs: BlobStore
    folder: str

    def put(self, file: int, taken: TextRange) -> Slice:
        """Store a range of a file, and return the slice that reads it. Raises `StorageError`."""
        name = f"{self.folder}/{file:06d}-{taken.start}-{taken.stop}"
        self.blobs.put(name, taken.text)
        return Slice(file, 0, taken.stop - taken.start, taken.rows, taken.line, name)


class LineSplitter(Splitter):
    """Splits text files, reading only as far as the next rows need. Keeps the file that it is in open.

    keeps_bad_rows: the part of a file that cannot be read becomes a row, in a slice of no bytes.
    """

    def __init__(
        self,
        files: SourceFiles,
        line_format: LineFormat,
        cursor: SourceCursor,
        staging: Staging,
        *,
        keeps_bad_rows: bool = False,
    ) -> None:
        self._files = files
        self._format = line_format
        self._staging = staging
        self._keeps_bad_rows = keeps_bad_rows
        self._file = cursor.file
        self._row = cursor.row
        self._from = cursor  # where to open the file, while none is open
        self._reader: TextRangeReader | None = None

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. A split has rows of one file or of several small ones; a row that is too long is alone."""
        slices: list[Slice] = []
        rows = size = 0
        while rows < max_rows and len(slices) < MAX_SLICES:
            found = self._next_slice(max_rows - rows, max_bytes - size, at_least_one=not slices)
            if found is None:
                break
            slices.append(found)
            rows += found.rows
            size += found.stop - found.start
        if not slices:
            return End()
        self._row += rows
        return InputSplit(tuple(slices), rows, size, self._cursor().text())

    def _next_slice(self, max_rows: int, max_bytes: int, *, at_least_one: bool) -> Slice | None:
        try:
            reader = self._at_row()
            taken = reader.take(max_rows, max_bytes, at_least_one=at_least_one) if reader else None
        except UnreadableFile:
            if not self._keeps_bad_rows:
                raise
            unreadable_rest = Slice(self._file, 0, 0, 1, self._reader.line if self._reader else 0)
            self._next_file()
            return unreadable_rest
        if taken is None:
            return None
        if self._files.entries[self._file].codec is None:
            return Slice(self._file, taken.start, taken.stop, taken.rows, taken.line)
        return self._staging.put(self._file, taken)

    def close(self) -> None:
        """Close the file that is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _cursor(self) -> SourceCursor:
        try:
            reader = self._at_row()
        except UnreadableFile:
            if not self._keeps_bad_rows:
                raise
            reader = self._reader  # whoever continues here meets the fault again
        if reader is None:
            return SourceCursor(self._file, row=self._row)
        return SourceCursor(self._file, reader.offset, reader.line, self._row)

    def _at_row(self) -> TextRangeReader | None:
        """Return the reader of the file that has the next row; None behind the last file."""
        while self._file < len(self._files):
            if self._reader is None:
                self._reader = self._open()
            if self._reader.skip_to_row():
                return self._reader
            self._next_file()
        return None

    def _next_file(self) -> None:
        self.close()
        self._file += 1
        self._from = SourceCursor(self._file)

    def _open(self) -> TextRangeReader:
        entry = self._files.entries[self._file]
        if not entry.is_readable:
            raise unreadable(entry.name, entry.fault)
        location = self._files.check(self._file)
        offset = self._from.offset
        blocks = Blocks(location, entry.size, entry.codec, offset)
        if offset:
            return TextRangeReader(blocks, self._format.layout, offset, self._from.line, keep=entry.codec is not None)
        return begin(blocks, self._format, keep=entry.codec is not None)


class TextSizes:
    """How many rows text files have, estimated from their bytes where they were not read to the end."""

    def __init__(self, description: SourceDescription) -> None:
        files = description.files
        sizes = [file.size * file.expansion for file in files]
        unknown = [size if file.rows is None else 0.0 for file, size in zip(files, sizes, strict=True)]
        self._total = description.rows
        self._row_bytes = description.row_bytes
        self._sizes = sizes
        self._before = [0.0, *accumulate(sizes)]
        self._unknown_before = [0.0, *accumulate(unknown)]
        self._known_before = [0, *accumulate(file.rows or 0 for file in files)]

    def count(self, cursor: SourceCursor) -> RowCount:
        """Return how many rows there are in total, with all before the cursor read."""
        if self._total is not None:
            return RowCount(self._total, exact=True)
        if cursor.file >= len(self._sizes):
            return RowCount(cursor.row, exact=True)
        passed = self._before[cursor.file] + cursor.offset
        row_bytes = passed / cursor.row if cursor.row and passed else self._row_bytes
        later = cursor.file + 1 if cursor.offset else cursor.file
        left = self._unknown_before[-1] - self._unknown_before[later]
        if cursor.offset:
            left += max(self._sizes[cursor.file] - cursor.offset, 0.0)
        known = self._known_before[-1] - self._known_before[later]
        return RowCount(cursor.row + known + round(left / max(row_bytes, 1.0)), exact=False)


def line_format(description: SourceDescription) -> LineFormat:
    """Make the parser for a described source."""
    names = description.file_schema.names if description.selected else None
    options = FormatOptions(description.csv, types_of(description.types), description.json_text)
    return make_format(description.format, description.header or (), names, options)


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What a user says about text files."""

    csv: CsvDialect | None
    types: dict[str, pa.DataType]
    json_text: Sequence[str]


def make_format(name: str, header: Sequence[str], selected: Sequence[str] | None, options: FormatOptions) -> LineFormat:
    """Make the parser for a text format. header: the columns of a CSV file; selected: those read; None: all."""
    if name == "jsonl":
        return JsonLinesFormat(selected, options.types, options.json_text)
    return CsvFormat(header, options.csv or CsvDialect(), options.types) if name == "csv" else PlainTextFormat()


def begin(blocks: Blocks, line_format: LineFormat, *, keep: bool) -> TextRangeReader:
    """Open a reader at the beginning of a file, behind the header if it has one."""
    reader = TextRangeReader(blocks, line_format.layout, keep=keep)
    if isinstance(line_format, CsvFormat) and line_format.has_header and reader.skip_to_row():
        reader.take(1, 0, at_least_one=True)
    return reader


def read_header(location: Location, size: int, codec: Codec | None, dialect: CsvDialect) -> tuple[str, ...] | None:
    """Read the values of the first record of a CSV file; None if it has no record at all."""
    reader = TextRangeReader(Blocks(location, size, codec), csv_layout(dialect), keep=True)
    try:
        first = reader.take(1, _HEADER_BYTES, at_least_one=True) if reader.skip_to_row() else None
    finally:
        reader.close()
    if first is None:
        return None
    try:
        return tuple(parse_record(first.joined().to_pybytes(), dialect))
    except ValueError as error:
        hint = "Convert the line ends to newlines." if "carriage return" in str(error) else ""
        raise unreadable(location.uri, f"line {first.line}, its header, is no CSV: {error}", hint) from error


def refuse_other_header(found: Sequence[str], expected: Sequence[str], uri: str, first: str) -> None:
    """Raise `InvalidSource` if two CSV files do not have the same columns in the same order."""
    if tuple(found) != tuple(expected):
        raise InvalidSource(
            f"{uri} has the columns {', '.join(found)}; {first} has {', '.join(expected)}.",
            hint="Give all files the same header, or read them in jobs of their own.",
            file=uri,
        )
