"""Rows that are sent with the job itself, as one small table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.jobs.shard import Slice
from batchmill.sources.base import End, InputSplit, NextSplit, RowCount, Source, Splitter
from batchmill.sources.cursor import SourceCursor
from batchmill.sources.schemas import plain

if TYPE_CHECKING:
    from collections.abc import Sequence


class InlineSource(Source):
    """A table in memory. Slices are row numbers of it."""

    def __init__(self, table: pa.Table) -> None:
        self.schema = plain(table.schema)
        self._table = table.cast(self.schema)

    def count(self, cursor: str) -> RowCount:  # noqa: ARG002  # known from the start
        """Return the table's rows, exactly."""
        return RowCount(self._table.num_rows, exact=True)

    def splitter(self, cursor: str = "") -> InlineSplitter:
        """Split the rows from a cursor on."""
        return InlineSplitter(self._table, SourceCursor.parse(cursor).row)

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """See `Source`."""
        tables = [self._table.slice(one.start, one.stop - one.start) for one in slices]
        return pa.concat_tables(tables) if tables else self.schema.empty_table()


class InlineSplitter(Splitter):
    """Splits a table."""

    def __init__(self, table: pa.Table, row: int) -> None:
        self._rows = table.num_rows
        self._row_bytes = table.nbytes / max(table.num_rows, 1)
        self._row = row

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. A row counts as many bytes as the table's rows have on average."""
        start = self._row
        if start >= self._rows:
            return End()
        by_bytes = int(max_bytes // self._row_bytes) if self._row_bytes else max_rows
        stop = self._row = min(start + max(min(max_rows, by_bytes), 1), self._rows)
        rows = stop - start
        cursor = SourceCursor(row=stop).text()
        return InputSplit((Slice(0, start, stop, rows),), rows, int(rows * self._row_bytes), cursor)
