"""Reads text files when a job is submitted: to the end when they are small, otherwise the beginning of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.sources.files.opening import UnreadableFile
from batchmill.sources.schemas import refuse_too_many
from batchmill.sources.text.bad_rows import infer_good_rows
from batchmill.sources.text.faults import RecordBlock, broken_while_scanned
from batchmill.sources.text.lines import begin
from batchmill.sources.text.text_ranges import ALL_ROWS, Blocks

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.sources.description import SourceFile
    from batchmill.sources.formats.line_format import LineFormat
    from batchmill.sources.text.text_ranges import TextRange, TextRangeReader
    from batchmill.storage.locations import Location

MAX_COMPLETE_BYTES = 64 * 1024 * 1024  # sources up to this size are read to the end
MAX_EXPANSION = 8  # bytes of text for each byte of a compressed file that are read
HEAD_BYTES = 1024 * 1024
MIN_HEAD_BYTES = 64 * 1024
_RANGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Scan:
    """What was seen of a text file."""

    schema: pa.Schema | None  # None: it has no rows
    rows: int
    bytes: int  # of text
    stored: int  # of the file
    is_complete: bool
    fault: UnreadableFile | None = None  # that ends it early; it counts as a row


def scan_limit(entry: SourceFile, total: int, files: int) -> int:
    """Return how many bytes of text to read of a file, one of `files` files with `total` stored bytes together."""
    if total <= MAX_COMPLETE_BYTES:
        return MAX_EXPANSION * MAX_COMPLETE_BYTES * entry.size // max(total, 1)
    head = min(max(MAX_COMPLETE_BYTES // files, MIN_HEAD_BYTES), HEAD_BYTES)
    return head if entry.codec is None else MAX_EXPANSION * head  # its ratio of compression shows only after a while


@dataclass(frozen=True, slots=True)
class ScanTask:
    """How to scan the files of a source. keeps_bad_rows: pass over the types of rows that cannot be read."""

    line_format: LineFormat
    keeps_bad_rows: bool = False

    def scan(self, location: Location, entry: SourceFile, limit: int, known: pa.Schema | None = None) -> Scan:
        """Read a file up to about `limit` bytes of text, a range at a time, and unite the schemas of its rows.

        known: a schema that its rows must go with. Raises `InvalidSource` naming the first line that does not parse,
        or whose types do not go with those before.
        """
        try:
            reader = begin(Blocks(location, entry.size, entry.codec), self.line_format, keep=True)
        except UnreadableFile as fault:
            if not self.keeps_bad_rows:
                raise
            return Scan(known, 1, 0, 0, is_complete=True, fault=fault)
        try:
            return self._scan(reader, location.uri, limit, known)
        finally:
            reader.close()

    def _scan(self, reader: TextRangeReader, uri: str, limit: int, known: pa.Schema | None) -> Scan:
        rows = size = 0
        schema = known
        more = True
        try:
            more = reader.skip_to_row()
            while more and (taken := reader.take(ALL_ROWS, min(_RANGE_BYTES, limit - size), at_least_one=True)):
                schema = self._united(schema, taken, uri)
                refuse_too_many(schema.names if schema is not None else (), uri)
                rows += taken.rows
                size += taken.stop - taken.start
                more = reader.skip_to_row()
                if size >= limit:
                    break
        except UnreadableFile as fault:
            if not self.keeps_bad_rows:
                raise
            return Scan(schema, rows + 1, size, reader.stored, is_complete=True, fault=fault)
        return Scan(schema, rows, size, reader.stored, is_complete=not more)

    def _united(self, known: pa.Schema | None, taken: TextRange, uri: str) -> pa.Schema | None:
        data = taken.joined()
        try:
            found = self.line_format.infer(data, taken.rows)
            return found if known is None else self.line_format.unite(known, found)
        except ValueError as error:
            block = RecordBlock(uri, taken.line, taken.rows, data)
            if self.keeps_bad_rows:
                return infer_good_rows(block, self.line_format, known)
            raise broken_while_scanned(block, self.line_format, known, error) from error
