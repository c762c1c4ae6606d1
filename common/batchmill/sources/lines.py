"""Sources of text: JSON Lines, CSV and plain text, cut at byte offsets; packed files are unpacked piece by piece."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import InvalidSource
from batchmill.shard import Slice
from batchmill.sources.base import Cutter, Piece, RowCount, Source
from batchmill.sources.cursor import Cursor
from batchmill.sources.faults import RecordBlock, broken_while_read
from batchmill.sources.formats import Csv, JsonLines, LineFormat, PlainText, parse_record
from batchmill.sources.opening import unreadable
from batchmill.sources.walk import Blocks, Stretch, TextWalk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.sources.description import Codec, SourceDescription
    from batchmill.sources.opening import SourceFiles
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location

MAX_SLICES = 256  # a piece: what it costs in the ledger stays small
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
        return self._sizes.count(Cursor.parse(cursor))

    def cutter(self, cursor: str = "") -> LineCutter:
        """A walk from a cursor on; in a packed file, everything before it is unpacked again."""
        return LineCutter(self._files, self._format, Cursor.parse(cursor), self._blobs, self._staging)

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """Parse the rows of these slices."""
        tables = [self._read(piece) for piece in slices]
        return pa.concat_tables(tables) if tables else self.schema.empty_table()

    def _read(self, piece: Slice) -> pa.Table:
        data = self._load(piece)
        try:
            return self._format.parse(data, piece.rows, self.schema)
        except ValueError as error:
            block = RecordBlock(self._files.locate(piece.file).uri, piece.line, piece.rows, data)
            raise broken_while_read(block, self._format, self.schema, error) from error

    def _load(self, piece: Slice) -> pa.Buffer:
        size = piece.stop - piece.start
        if piece.staged:
            return self._blobs.get(piece.staged).slice(piece.start, size)
        return self._files.read_at(piece.file, piece.start, size)


class LineCutter(Cutter):
    """A walk along text files. It reads only as far as the next rows need, and keeps its place."""

    def __init__(
        self, files: SourceFiles, line_format: LineFormat, cursor: Cursor, blobs: BlobStore, staging: str
    ) -> None:
        self._files = files
        self._format = line_format
        self._blobs = blobs
        self._staging = staging
        self._file = cursor.file
        self._row = cursor.row
        self._from = cursor  # where to open the file, while none is open
        self._walk: TextWalk | None = None

    def cut(self, max_rows: int, max_bytes: int) -> Piece | None:
        """The next rows, of one file or of several small ones; a long row comes alone."""
        slices: list[Slice] = []
        rows = size = 0
        while rows < max_rows and len(slices) < MAX_SLICES and (walk := self._at_row()) is not None:
            stretch = walk.take(max_rows - rows, max_bytes - size, at_least_one=not slices)
            if stretch is None:
                break
            slices.append(self._slice(stretch))
            rows += stretch.rows
            size += stretch.stop - stretch.start
        if not slices:
            return None
        self._row += rows
        return Piece(tuple(slices), rows, size, self._cursor().text())

    def close(self) -> None:
        """Close the file that is open."""
        if self._walk is not None:
            self._walk.close()
            self._walk = None

    def _cursor(self) -> Cursor:
        walk = self._at_row()
        return Cursor(self._file, walk.offset if walk else 0, walk.line if walk else 1, self._row)

    def _at_row(self) -> TextWalk | None:
        """The walk along the file that has the next row; None behind the last file."""
        while self._file < len(self._files):
            if self._walk is None:
                self._walk = self._open()
            if self._walk.skip_to_row():
                return self._walk
            self.close()
            self._file += 1
            self._from = Cursor(self._file)
        return None

    def _open(self) -> TextWalk:
        location = self._files.check(self._file)
        entry = self._files.entries[self._file]
        offset = self._from.offset
        blocks = Blocks(location, entry.size, entry.codec, offset)
        if offset:
            return TextWalk(blocks, self._format.layout, offset, self._from.line, keep=entry.codec is not None)
        return begin(blocks, self._format, keep=entry.codec is not None)

    def _slice(self, stretch: Stretch) -> Slice:
        codec = self._files.entries[self._file].codec
        if codec is None:
            return Slice(self._file, stretch.start, stretch.stop, stretch.rows, stretch.line)
        name = f"{self._staging}/{self._file:06d}-{stretch.start}-{stretch.stop}"
        self._blobs.put(name, stretch.text)
        return Slice(self._file, 0, stretch.stop - stretch.start, stretch.rows, stretch.line, name)


class TextSizes:
    """How many rows text files have, as far as bytes tell it."""

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

    def count(self, cursor: Cursor) -> RowCount:
        """How many rows there are in all, seen from a cursor."""
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
    """The parser for a described source."""
    return make_format(description.format, description.header or (), selected=description.selected)


def make_format(name: str, header: Sequence[str], *, selected: bool) -> LineFormat:
    """The parser for a text format. header: the columns of a CSV file; selected: only some columns are read."""
    if name == "jsonl":
        return JsonLines(ignore_others=selected)
    return Csv(header) if name == "csv" else PlainText()


def begin(blocks: Blocks, line_format: LineFormat, *, keep: bool) -> TextWalk:
    """A walk from the beginning of a file on, behind the header if it has one."""
    walk = TextWalk(blocks, line_format.layout, keep=keep)
    if isinstance(line_format, Csv) and walk.skip_to_row():
        walk.take(1, 0, at_least_one=True)
    return walk


def read_header(location: Location, size: int, codec: Codec | None) -> tuple[str, ...] | None:
    """The names in the first record of a CSV file; None if it has no record at all."""
    walk = TextWalk(Blocks(location, size, codec), Csv.layout, keep=True)
    try:
        stretch = walk.take(1, _HEADER_BYTES, at_least_one=True) if walk.skip_to_row() else None
    finally:
        walk.close()
    if stretch is None:
        return None
    try:
        return tuple(parse_record(stretch.whole().to_pybytes()))
    except ValueError as error:
        raise unreadable(location.uri, f"line {stretch.line}, its header, is no CSV: {error}") from error


def refuse_other_header(found: Sequence[str], expected: Sequence[str], uri: str, first: str) -> None:
    """Raise `InvalidSource` if two CSV files do not have the same columns in the same order."""
    if tuple(found) != tuple(expected):
        raise InvalidSource(
            f"{uri} has the columns {', '.join(found)}; {first} has {', '.join(expected)}.",
            hint="Give all files the same header, or read them in jobs of their own.",
            file=uri,
        )
