"""Sources of text: JSON Lines, CSV and plain text, split at byte offsets.

A compressed file cannot be read from its middle. The splitter decompresses it once, from its beginning, and stores the
text of each slice in the blob store, where workers read it (`Slice.staged`).
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import InvalidSource
from batchmill.shard import Slice
from batchmill.sources.base import End, InputSplit, NextSplit, RowCount, Source, Splitter
from batchmill.sources.cursor import SourceCursor
from batchmill.sources.faults import RecordBlock, broken_while_read
from batchmill.sources.formats import CsvFormat, JsonLinesFormat, LineFormat, PlainTextFormat, parse_record
from batchmill.sources.opening import unreadable
from batchmill.sources.text_ranges import Blocks, TextRange, TextRangeReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.sources.description import Codec, SourceDescription
    from batchmill.sources.opening import SourceFiles
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location

MAX_SLICES = 256  # of a split, so that the ledger's entry stays small
_HEADER_BYTES = 1024 * 1024


class LineSource(Source):
    """Text files. Slices are byte offsets of a file, or of a staged blob that holds the slice alone."""

    def __init__(self, description: SourceDescription, files: SourceFiles, blobs: BlobStore, staging: str) -> None:
        self.schema = description.arrow_schema
        self._files = files
        self._blobs = blobs
        self._staging = staging
        self._format = line_format(description)
        self._sizes = TextSizes(description)

    def count(self, cursor: str) -> RowCount:
        """Exact at the end, and where all files were read when they were described; else by the bytes left."""
        return self._sizes.count(SourceCursor.parse(cursor))

    def splitter(self, cursor: str = "") -> LineSplitter:
        """Split from a cursor on; of a compressed file, everything before it is decompressed again."""
        return LineSplitter(self._files, self._format, SourceCursor.parse(cursor), self._blobs, self._staging)

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """Parse the rows of these slices."""
        tables = [self._read(one) for one in slices]
        return pa.concat_tables(tables) if tables else self.schema.empty_table()

    def _read(self, one: Slice) -> pa.Table:
        data = self._load(one)
        try:
            return self._format.parse(data, one.rows, self.schema)
        except ValueError as error:
            block = RecordBlock(self._files.locate(one.file).uri, one.line, one.rows, data)
            raise broken_while_read(block, self._format, self.schema, error) from error

    def _load(self, one: Slice) -> pa.Buffer:
        size = one.stop - one.start
        if one.staged:
            return self._blobs.get(one.staged).slice(one.start, size)
        return self._files.read_at(one.file, one.start, size)


class LineSplitter(Splitter):
    """Splits text files, reading only as far as the next rows need. Keeps the file that it is in open."""

    def __init__(
        self, files: SourceFiles, line_format: LineFormat, cursor: SourceCursor, blobs: BlobStore, staging: str
    ) -> None:
        self._files = files
        self._format = line_format
        self._blobs = blobs
        self._staging = staging
        self._file = cursor.file
        self._row = cursor.row
        self._from = cursor  # where to open the file, while none is open
        self._reader: TextRangeReader | None = None

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. A split has rows of one file or of several small ones; a row that is too long is alone."""
        slices: list[Slice] = []
        rows = size = 0
        while rows < max_rows and len(slices) < MAX_SLICES and (reader := self._at_row()) is not None:
            taken = reader.take(max_rows - rows, max_bytes - size, at_least_one=not slices)
            if taken is None:
                break
            slices.append(self._slice(taken))
            rows += taken.rows
            size += taken.stop - taken.start
        if not slices:
            return End()
        self._row += rows
        return InputSplit(tuple(slices), rows, size, self._cursor().text())

    def close(self) -> None:
        """Close the file that is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _cursor(self) -> SourceCursor:
        reader = self._at_row()
        return SourceCursor(self._file, reader.offset if reader else 0, reader.line if reader else 1, self._row)

    def _at_row(self) -> TextRangeReader | None:
        """Return the reader of the file that has the next row; None behind the last file."""
        while self._file < len(self._files):
            if self._reader is None:
                self._reader = self._open()
            if self._reader.skip_to_row():
                return self._reader
            self.close()
            self._file += 1
            self._from = SourceCursor(self._file)
        return None

    def _open(self) -> TextRangeReader:
        location = self._files.check(self._file)
        entry = self._files.entries[self._file]
        offset = self._from.offset
        blocks = Blocks(location, entry.size, entry.codec, offset)
        if offset:
            return TextRangeReader(blocks, self._format.layout, offset, self._from.line, keep=entry.codec is not None)
        return begin(blocks, self._format, keep=entry.codec is not None)

    def _slice(self, taken: TextRange) -> Slice:
        codec = self._files.entries[self._file].codec
        if codec is None:
            return Slice(self._file, taken.start, taken.stop, taken.rows, taken.line)
        name = f"{self._staging}/{self._file:06d}-{taken.start}-{taken.stop}"
        self._blobs.put(name, taken.text)
        return Slice(self._file, 0, taken.stop - taken.start, taken.rows, taken.line, name)


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
    return make_format(description.format, description.header or (), selected=description.selected)


def make_format(name: str, header: Sequence[str], *, selected: bool) -> LineFormat:
    """Make the parser for a text format. header: the columns of a CSV file; selected: only some columns are read."""
    if name == "jsonl":
        return JsonLinesFormat(ignore_others=selected)
    return CsvFormat(header) if name == "csv" else PlainTextFormat()


def begin(blocks: Blocks, line_format: LineFormat, *, keep: bool) -> TextRangeReader:
    """Open a reader at the beginning of a file, behind the header if it has one."""
    reader = TextRangeReader(blocks, line_format.layout, keep=keep)
    if isinstance(line_format, CsvFormat) and reader.skip_to_row():
        reader.take(1, 0, at_least_one=True)
    return reader


def read_header(location: Location, size: int, codec: Codec | None) -> tuple[str, ...] | None:
    """Read the names in the first record of a CSV file; None if it has no record at all."""
    reader = TextRangeReader(Blocks(location, size, codec), CsvFormat.layout, keep=True)
    try:
        first = reader.take(1, _HEADER_BYTES, at_least_one=True) if reader.skip_to_row() else None
    finally:
        reader.close()
    if first is None:
        return None
    try:
        return tuple(parse_record(first.joined().to_pybytes()))
    except ValueError as error:
        raise unreadable(location.uri, f"line {first.line}, its header, is no CSV: {error}") from error


def refuse_other_header(found: Sequence[str], expected: Sequence[str], uri: str, first: str) -> None:
    """Raise `InvalidSource` if two CSV files do not have the same columns in the same order."""
    if tuple(found) != tuple(expected):
        raise InvalidSource(
            f"{uri} has the columns {', '.join(found)}; {first} has {', '.join(expected)}.",
            hint="Give all files the same header, or read them in jobs of their own.",
            file=uri,
        )
