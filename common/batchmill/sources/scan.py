"""Reads text files when a job is submitted: to the end when they are small, otherwise the beginning of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.sources.faults import RecordBlock, broken_while_scanned
from batchmill.sources.lines import begin
from batchmill.sources.schemas import refuse_too_many
from batchmill.sources.text_ranges import ALL_ROWS, Blocks

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.sources.description import SourceFile
    from batchmill.sources.formats import LineFormat
    from batchmill.sources.text_ranges import TextRange, TextRangeReader
    from batchmill.storage.locations import Location

WHOLE_BYTES = 64 * 1024 * 1024  # sources up to this size are read to the end
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
    is_whole: bool


def scan_limit(entry: SourceFile, total: int, files: int) -> int:
    """Return how many bytes of text to read of a file, one of `files` files with `total` stored bytes together."""
    if total <= WHOLE_BYTES:
        return MAX_EXPANSION * WHOLE_BYTES * entry.size // max(total, 1)
    head = min(max(WHOLE_BYTES // files, MIN_HEAD_BYTES), HEAD_BYTES)
    return head if entry.codec is None else MAX_EXPANSION * head  # its ratio of compression shows only after a while


def scan_file(
    location: Location, entry: SourceFile, line_format: LineFormat, limit: int, known: pa.Schema | None = None
) -> Scan:
    """Read a file up to about `limit` bytes of text, a range at a time, and unite the schemas of its rows.

    known: a schema that its rows must go with. Raises `InvalidSource` naming the first line that does not parse,
    or whose types do not go with those before.
    """
    reader = begin(Blocks(location, entry.size, entry.codec), line_format, keep=True)
    try:
        return _scan(reader, location.uri, line_format, limit, known)
    finally:
        reader.close()


def _scan(reader: TextRangeReader, uri: str, line_format: LineFormat, limit: int, known: pa.Schema | None) -> Scan:
    rows = size = 0
    schema = known
    more = reader.skip_to_row()
    while more and (taken := reader.take(ALL_ROWS, min(_RANGE_BYTES, limit - size), at_least_one=True)):
        schema = _united(schema, taken, uri, line_format)
        refuse_too_many(schema.names, uri)
        rows += taken.rows
        size += taken.stop - taken.start
        more = reader.skip_to_row()
        if size >= limit:
            break
    return Scan(schema, rows, size, reader.stored, is_whole=not more)


def _united(known: pa.Schema | None, taken: TextRange, uri: str, line_format: LineFormat) -> pa.Schema:
    data = taken.joined()
    try:
        found = line_format.infer(data, taken.rows)
        return found if known is None else line_format.unite(known, found)
    except ValueError as error:
        block = RecordBlock(uri, taken.line, taken.rows, data)
        raise broken_while_scanned(block, line_format, known, error) from error
