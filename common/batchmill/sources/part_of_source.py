"""Sources of which only some rows are read: the first ones, or a sample. Each is laid over another source.

The rows that are left out are rows of no shard: a job counts, numbers and pays for the others only.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.sources.base import (
    MAX_SLICES,
    End,
    InputSplit,
    NextSplit,
    RowCount,
    RowsRead,
    Source,
    Splitter,
    by_slice,
    join_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.shard import Slice
    from batchmill.sources.sampling import Sample

_MAX_READ = 8  # times the bytes of a split: what is read of the source for one split of a sample


class LimitedSource(Source):
    """The first `limit` rows of a source. Nothing behind them is read."""

    def __init__(self, source: Source, limit: int) -> None:
        self.schema = source.schema
        self._source = source
        self._limit = limit

    def count(self, cursor: str) -> RowCount:
        """See `Source`."""
        rows, inner = _parse(cursor)
        found = self._source.count(inner)
        return RowCount(min(found.rows, self._limit), exact=found.exact or rows >= self._limit)

    def splitter(self, cursor: str = "") -> LimitedSplitter:
        """See `Source`."""
        rows, inner = _parse(cursor)
        return LimitedSplitter(self._source.splitter(inner), self._limit, rows)

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """See `Source`."""
        return self._source.read(slices)

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """See `Source`."""
        return self._source.read_with_faults(slices)

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:
        """See `Source`."""
        return self._source.origins(slices, places)


class LimitedSplitter(Splitter):
    """Splits the first `limit` rows that another splitter gives, `rows` of which it gave before."""

    def __init__(self, splitter: Splitter, limit: int, rows: int) -> None:
        self._splitter = splitter
        self._limit = limit
        self._rows = rows

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`."""
        if self._rows >= self._limit:
            return End()
        found = self._splitter.next_split(min(max_rows, self._limit - self._rows), max_bytes)
        if not isinstance(found, InputSplit):
            return found
        self._rows += found.rows
        return replace(found, cursor=_cursor(self._rows, found.cursor))

    def close(self) -> None:
        """See `Splitter`."""
        self._splitter.close()


class SampledSource(Source):
    """The rows of a source that are in a sample. Slices are those of the source, and know the numbers of their rows."""

    def __init__(self, source: Source, sample: Sample) -> None:
        self.schema = source.schema
        self._source = source
        self._sample = sample

    def count(self, cursor: str) -> RowCount:
        """See `Source`."""
        found = self._source.count(_parse(cursor)[1])
        return RowCount(self._sample.count(found.rows), found.exact)

    def splitter(self, cursor: str = "") -> SampledSplitter:
        """See `Source`."""
        row, inner = _parse(cursor)
        return SampledSplitter(self._source.splitter(inner), self._sample, row)

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """See `Source`. Rows that are not in the sample are read too, a slice at a time."""
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """See `Source`."""
        return join_rows([self._read(one) for one in slices], self.schema)

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:
        """See `Source`."""
        chosen = [self._sample.places(one.row, one.row + one.rows) for one in slices]
        found: list[str] = []
        for one, rows, own in zip(slices, chosen, by_slice([len(rows) for rows in chosen], places), strict=True):
            found += self._source.origins((one,), rows[own].tolist()) if own else []
        return found

    def _read(self, one: Slice) -> RowsRead:
        found = self._source.read_with_faults((one,))
        places = self._sample.places(one.row, one.row + one.rows)
        rank = {place: number for number, place in enumerate(places.tolist())} if found.bad else {}
        bad = tuple(replace(row, place=rank[row.place]) for row in found.bad if row.place in rank)
        return RowsRead(found.table.take(pa.array(places)), bad)


class SampledSplitter(Splitter):
    """Splits the rows in a sample of what another splitter gives from row `row` of its source on."""

    def __init__(self, splitter: Splitter, sample: Sample, row: int) -> None:
        self._splitter = splitter
        self._sample = sample
        self._row = row

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. `bytes` is about what the rows in the sample take."""
        slices: list[Slice] = []
        rows, size, read = 0, 0.0, 0
        cursor = ""
        while rows < max_rows and size < max_bytes and read < _MAX_READ * max_bytes and len(slices) < MAX_SLICES:
            reach = self._sample.stop(self._row, max_rows - rows) - self._row
            found = self._splitter.next_split(reach, max_bytes)
            if not isinstance(found, InputSplit):
                if rows:
                    break
                return found
            cursor = found.cursor
            chosen = self._pass(found, slices)
            rows += chosen
            size += found.bytes * chosen / found.rows
            read += found.bytes if rows else 0
        return InputSplit(tuple(slices), rows, round(size), _cursor(self._row, cursor))

    def _pass(self, found: InputSplit, slices: list[Slice]) -> int:
        """Move behind a split, and keep those of its slices that have rows in the sample; returns how many rows."""
        first = before = self._sample.count(self._row)
        for one in found.slices:
            behind = self._sample.count(self._row + one.rows)
            if behind > before:
                slices.append(replace(one, row=self._row))
            self._row += one.rows
            before = behind
        return before - first

    def close(self) -> None:
        """See `Splitter`."""
        self._splitter.close()


def _cursor(row: int, inner: str) -> str:
    return json.dumps([row, inner], separators=(",", ":"))


def _parse(cursor: str) -> tuple[int, str]:
    row, inner = json.loads(cursor) if cursor else (0, "")
    return int(row), str(inner)
