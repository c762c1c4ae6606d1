"""Reads one text file from a byte on, as ranges of complete rows: no further than it is asked for.

1. `Blocks` gives the text block by block, decompressed where the file is compressed.
2. `RecordScanner` finds where records end in a block; a record may begin in one block and end in a later one.
3. `TextRangeReader` joins records to ranges of at most N rows and bytes, and remembers where the next begins.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.sources.files.opening import UnreadableFile, changed, open_file, reading
from batchmill.sources.formats.records import Records, RecordScanner
from batchmill.sources.text.gzip_text import GzipText

if TYPE_CHECKING:
    from batchmill.sources.description import Codec
    from batchmill.sources.formats.records import Layout
    from batchmill.storage.locations import Location

LOCAL_BLOCK_BYTES = 1024 * 1024
REMOTE_BLOCK_BYTES = 4 * 1024 * 1024  # a request each
MAX_ROW_BYTES = 64 * 1024 * 1024
ALL_ROWS = 1 << 62
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_READ_AHEAD = 32 * 1024  # what a decoder has read of a file beyond what it gave, on average
_NO_RECORDS = Records(*(np.empty(0, np.int64) for _ in range(3)))


class Blocks:
    """The text of a file from an offset on, decompressed, block by block. Offsets are bytes of the text."""

    def __init__(self, location: Location, size: int, codec: Codec | None, offset: int = 0) -> None:
        self.location = location
        self._size = size
        self._offset = offset
        self._block = LOCAL_BLOCK_BYTES if location.is_local else REMOTE_BLOCK_BYTES
        with reading(location):
            self._file: Any = open_file(location)
            self._text: Any = _decompressed(self._file, codec) if codec and size else None
            self._skip(offset if self._text else 0)

    @property
    def stored(self) -> int:
        """About how many stored bytes of the file the blocks so far took up."""
        if self._text is None:
            return self._offset
        place = int(self._file.tell())
        return place if place >= self._size else max(place - _READ_AHEAD, 1)

    def next(self) -> pa.Buffer:
        """Read the next block; empty at the end. Raises `InvalidSource` if the file is truncated or damaged."""
        with reading(self.location):
            if self._text is not None:
                return self._text.read_buffer(self._block)
            wanted = min(self._block, self._size - self._offset)
            block = pa.py_buffer(self._file.read_at(wanted, self._offset) if wanted else b"")
        if block.size < wanted:
            raise changed(self.location.uri, "it ends earlier")
        self._offset += wanted
        return block

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _skip(self, left: int) -> None:
        while left > 0:
            block = self._text.read_buffer(min(left, self._block))
            if not block.size:
                raise changed(self.location.uri, "its text ends earlier")
            left -= block.size


def _decompressed(file: Any, codec: Codec) -> Any:
    return GzipText(file) if codec == "gzip" else pa.CompressedInputStream(file, codec)


@dataclass(frozen=True, slots=True)
class TextRange:
    """Consecutive rows of a text file."""

    start: int  # offset of the first byte in the text
    stop: int
    rows: int
    line: int  # 1-based line of the first row
    text: tuple[pa.Buffer, ...] = ()  # the bytes themselves, when the reader keeps them

    def joined(self) -> pa.Buffer:
        """Return the kept bytes as one buffer."""
        if len(self.text) == 1:
            return self.text[0]
        return pa.py_buffer(b"".join(memoryview(block) for block in self.text))


class TextRangeReader:
    """Ranges of rows, one after another, of the text that `blocks` gives.

    What a reader gives depends on where it began and what it was asked for, never on where blocks begin.
    offset, line: where in the text the blocks begin; always at a row.
    keep: give each range its bytes.
    """

    def __init__(self, blocks: Blocks, layout: Layout, offset: int = 0, line: int = 1, *, keep: bool = False) -> None:
        first = blocks.next()
        if offset == 0 and first.slice(0, min(first.size, 3)).to_pybytes() == _BYTE_ORDER_MARK:
            first, offset = first.slice(3), 3
        self.offset = offset  # where the next record begins
        self.line = line
        self._blocks = blocks
        self._scanner = RecordScanner(layout, offset)
        self._keep = keep
        self._kept: deque[tuple[int, pa.Buffer]] = deque()
        self._records = _NO_RECORDS
        self._place = 0  # of the next one among the records
        self._at_end = False
        self._fault: UnreadableFile | None = None  # what is behind the records that are loaded
        self._scan(first)

    @property
    def stored(self) -> int:
        """About how many stored bytes of the file were read."""
        return self._blocks.stored

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()

    def skip_to_row(self) -> bool:
        """Move to the next record that is a row; False if there is none."""
        while self._load():
            first = int(np.searchsorted(self._records.rows, self._rows_before() + 1))
            self._consume(first - self._place)
            self._forget_passed()
            if self._place < len(self._records.ends):
                return True
        return False

    def take(self, max_rows: int, max_bytes: int, *, at_least_one: bool) -> TextRange | None:
        """Take the next rows, at most `max_rows` in at most `max_bytes`; None if not even one fits.

        at_least_one: take the first record, however long it is.
        Raises `UnreadableFile` where no more rows can be read; the rows before that place are returned first.
        """
        start, line, rows = self.offset, self.line, 0
        while rows < max_rows and self._load_behind(start):
            count = self._fitting(max_rows - rows, start + max_bytes)
            if at_least_one and self.offset == start:
                count = max(count, 1)
            rows += self._consume(count)
            if self._place < len(self._records.ends):
                break
        if self.offset == start:
            return None
        text = self._kept_text(start)
        self._forget_passed()
        return TextRange(start, self.offset, rows, line, text)

    def _fitting(self, max_rows: int, limit: int) -> int:
        """Return how many of the loaded records fit; the last record of a full range is a row."""
        ends, rows = self._records.ends[self._place :], self._records.rows[self._place :]
        by_bytes = int(np.searchsorted(ends, limit, side="right"))
        by_rows = int(np.searchsorted(rows, self._rows_before() + max_rows)) + 1
        return min(by_bytes, by_rows, len(ends))

    def _consume(self, count: int) -> int:
        """Move past `count` of the loaded records; returns how many of them are rows."""
        if not count:
            return 0
        last = self._place + count - 1
        rows = int(self._records.rows[last]) - self._rows_before()
        lines = int(self._records.lines[last]) - self._before(self._records.lines)
        self.offset = int(self._records.ends[last])
        self.line += lines
        self._place = last + 1
        return rows

    def _rows_before(self) -> int:
        return self._before(self._records.rows)

    def _before(self, sums: Any) -> int:
        return int(sums[self._place - 1]) if self._place else 0

    def _load_behind(self, start: int) -> bool:
        """Load as `_load` does; False also where nothing can be read, if there are rows before that."""
        try:
            return self._load()
        except UnreadableFile as fault:
            if self.offset == start:
                raise
            self._fault = fault
            return False

    def _load(self) -> bool:
        """Have at least one record loaded; False at the end of the text."""
        if self._fault is not None:
            raise self._fault
        while self._place >= len(self._records.ends):
            if self._at_end:
                return False
            self._scan(self._blocks.next())
        return True

    def _scan(self, block: pa.Buffer) -> None:
        if self._keep:
            self._kept.append((self._scanner.end, block))
        self._place, self._records = 0, _NO_RECORDS
        if block.size:
            self._records = self._scanner.scan(block)
            self._refuse_endless_row()
        else:
            self._at_end = True
            if self._scanner.is_quoted:
                raise self._broken(
                    "a quote is opened and never closed", "Close it, or double it if it is part of a value."
                )
            self._records = self._scanner.finish()

    def _refuse_endless_row(self) -> None:
        if not len(self._records.ends) and self._scanner.end - self._scanner.started > MAX_ROW_BYTES:
            hint = "Check that the file has line ends" + (
                ", and that quotes are closed." if self._scanner.is_quoted else "."
            )
            raise self._broken(f"the row is longer than {MAX_ROW_BYTES // 2**20} MiB", hint)

    def _broken(self, what: str, hint: str) -> UnreadableFile:
        uri = self._blocks.location.uri
        return UnreadableFile(f"{uri}, line {self.line}: {what}.", hint=hint, file=uri, line=self.line)

    def _kept_text(self, start: int) -> tuple[pa.Buffer, ...]:
        blocks = []
        for place, block in self._kept:
            first, last = max(start - place, 0), min(self.offset - place, block.size)
            if first < last:
                blocks.append(block.slice(first, last - first))
        return tuple(blocks)

    def _forget_passed(self) -> None:
        while self._kept and self._kept[0][0] + self._kept[0][1].size <= self.offset:
            self._kept.popleft()
