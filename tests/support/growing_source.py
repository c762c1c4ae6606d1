"""A source whose input is still being written, as that of a later stage or of a stream is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.jobs.shard import Slice
from batchmill.sources import End, InputSplit, NextSplit, NotYet, RowCount, Source, Splitter

if TYPE_CHECKING:
    from collections.abc import Sequence


class GrowingSource(Source):
    """Rows `{"id": 0}`, `{"id": 1}`, … as far as they were written. Thread-safe."""

    schema = pa.schema([("id", pa.int64())])

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0
        self._is_closed = False
        self.not_yet = 0  # how often a splitter found nothing
        self.opened_at: list[str] = []  # the cursor of each splitter

    def write(self, rows: int) -> None:
        """Add rows."""
        with self._lock:
            self._rows += rows

    @property
    def rows(self) -> int:
        """How many were written."""
        with self._lock:
            return self._rows

    def close(self) -> None:
        """Write no more rows."""
        with self._lock:
            self._is_closed = True

    def count(self, cursor: str) -> RowCount:  # noqa: ARG002  # the same from everywhere
        """The rows so far; exact once no more are written."""
        with self._lock:
            return RowCount(self._rows, exact=self._is_closed)

    def splitter(self, cursor: str = "") -> Splitter:
        """Continue at a row number."""
        self.opened_at.append(cursor)
        return GrowingSplitter(self, int(cursor or "0"))

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """These rows, in order."""
        ids = [row for piece in slices for row in range(piece.start, piece.stop)]
        return pa.table({"id": pa.array(ids, pa.int64())})

    def next_rows(self, start: int, max_rows: int) -> int | None:
        """How many rows there are from `start` on, up to `max_rows`; 0: none yet, None: none any more."""
        with self._lock:
            rows = min(self._rows - start, max_rows)
            if rows == 0 and not self._is_closed:
                self.not_yet += 1
            return rows or (None if self._is_closed else 0)


class GrowingSplitter(Splitter):
    """Gives what was written so far, then `NotYet` until there is more."""

    def __init__(self, source: GrowingSource, row: int) -> None:
        self._source = source
        self._row = row

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:  # noqa: ARG002  # its rows are small
        """See `Splitter`."""
        rows = self._source.next_rows(self._row, max_rows)
        if rows is None:
            return End()
        if rows == 0:
            return NotYet()
        start, self._row = self._row, self._row + rows
        return InputSplit((Slice(0, start, self._row, rows),), rows, 8 * rows, str(self._row))
