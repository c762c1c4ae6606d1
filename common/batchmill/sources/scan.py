"""Looks at text files when a job is submitted: whole when they are small, else at the head of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.sources.faults import RecordBlock, broken_while_scanned
from batchmill.sources.lines import begin
from batchmill.sources.walk import ALL_ROWS, Blocks

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.sources.description import SourceFile
    from batchmill.sources.formats import LineFormat
    from batchmill.sources.walk import Stretch, TextWalk
    from batchmill.storage.locations import Location

WHOLE_BYTES = 64 * 1024 * 1024  # sources up to this size are read whole
MAX_UNPACKED = 8  # times as many bytes of text, where they are packed
HEAD_BYTES = 1024 * 1024
MIN_HEAD_BYTES = 64 * 1024
_STRETCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Scan:
    """What was seen of a text file."""

    schema: pa.Schema | None  # None: it has no rows
    rows: int
    bytes: int  # of text
    stored: int  # of the file
    is_whole: bool


def scan_limit(entry: SourceFile, total: int, files: int) -> int:
    """How many bytes of text to look at in one of so many files of so many bytes in total."""
    if total <= WHOLE_BYTES:
        return MAX_UNPACKED * WHOLE_BYTES * entry.size // max(total, 1)
    head = min(max(WHOLE_BYTES // files, MIN_HEAD_BYTES), HEAD_BYTES)
    return head if entry.codec is None else MAX_UNPACKED * head  # how well it is packed shows only after a while


def scan_file(
    location: Location, entry: SourceFile, line_format: LineFormat, limit: int, known: pa.Schema | None = None
) -> Scan:
    """Read a file up to about `limit` bytes of text, a stretch at a time, and unite what its rows are.

    known: a schema that its rows must go with. Raises `InvalidSource` naming the first line that does not parse,
    or whose types do not go with those before.
    """
    walk = begin(Blocks(location, entry.size, entry.codec), line_format, keep=True)
    try:
        return _scan(walk, location.uri, line_format, limit, known)
    finally:
        walk.close()


def _scan(walk: TextWalk, uri: str, line_format: LineFormat, limit: int, known: pa.Schema | None) -> Scan:
    rows = size = 0
    schema = known
    more = walk.skip_to_row()
    while more and (stretch := walk.take(ALL_ROWS, min(_STRETCH_BYTES, limit - size), at_least_one=True)):
        schema = _united(schema, stretch, uri, line_format)
        rows += stretch.rows
        size += stretch.stop - stretch.start
        more = walk.skip_to_row()
        if size >= limit:
            break
    return Scan(schema, rows, size, walk.stored, is_whole=not more)


def _united(known: pa.Schema | None, stretch: Stretch, uri: str, line_format: LineFormat) -> pa.Schema:
    data = stretch.whole()
    try:
        found = line_format.infer(data, stretch.rows)
        return found if known is None else line_format.unite(known, found)
    except ValueError as error:
        block = RecordBlock(uri, stretch.line, stretch.rows, data)
        raise broken_while_scanned(block, line_format, known, error) from error
