"""The source of a job that reads a stream: cut into ranges of offsets, and read again by them.

1. A split has a range of each partition with rows, in turns, up to its limits of rows and bytes.
2. While no slot is free (`Splitter.is_awaited`), what there is waits for more until the first of it has waited for
   `max_age_s`: many rows cost little more than one. As soon as one is free, it is cut at once.
3. The splitter keeps nothing but offsets: what it has looked at and not cut, it looks at again. So nothing is lost with
   it, and its memory does not grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import InvalidSource
from batchmill.jobs.streams.offsets import OffsetRange, PartitionOffset, StreamOffsets, range_slice
from batchmill.sources.base import EndlessSource, InputSplit, NextSplit, NotYet, RowsRead, Splitter, Survey
from batchmill.streams.base import Head
from batchmill.streams.messages import united

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.clock import Clock
    from batchmill.jobs.shard import Slice
    from batchmill.jobs.streams.source import StreamSource
    from batchmill.streams.base import Fetched, StreamReader

MAX_PARTITIONS = 256
"""Of a stream: each has a range in the plan of a shard."""


class StreamInput(EndlessSource):
    """A stream, read with a `StreamReader`. Thread-safe."""

    def __init__(
        self, spec: StreamSource, reader: StreamReader, types: Mapping[str, pa.DataType], clock: Clock
    ) -> None:
        self.schema = pa.schema(list(types.items()))
        self._spec = spec
        self._reader = reader
        self._clock = clock

    def first_cursor(self) -> str:
        """See `EndlessSource`. `first` needs no offsets: a partition that is not among them is read from its start."""
        if self._spec.start != "new":
            return ""
        heads = {name: self._reader.head(name, at_end=True) for name in self.partitions()}
        return StreamOffsets({name: PartitionOffset(*head) for name, head in heads.items()}).write()

    def partitions(self) -> Sequence[str]:
        """Return the names of the partitions. Raises `InvalidSource` for more than `MAX_PARTITIONS`."""
        names = self._reader.partitions()
        if len(names) > MAX_PARTITIONS:
            raise InvalidSource(
                f"{self._spec.title} has {len(names):,} partitions, at most {MAX_PARTITIONS} are read by one job.",
                hint="Divide it between several jobs.",
            )
        return names

    def splitter(self, cursor: str = "") -> Splitter:
        """See `Source`."""
        return _StreamSplitter(self, self._offsets(cursor), self._spec, self._reader, self._clock)

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """See `Source`. A bad row has no values: it is a dead letter, and its message says where it is."""
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """See `Source`."""
        parts = []
        for piece in slices:
            one = OffsetRange.of(piece)
            parts.append(self._reader.read(one.partition, one.after, one.last, piece.rows))
        return parts[0] if len(parts) == 1 else united(parts, {}, self._spec.title)

    def wait(self, cursor: str, timeout_s: float) -> bool:
        """See `EndlessSource`."""
        planned = self._offsets(cursor).partitions
        offsets = {name: _head(self._reader, planned, name).offset for name in self.partitions()}
        return self._reader.wait(offsets, timeout_s)

    def survey(self, cursor: str) -> Survey:
        """See `EndlessSource`."""
        planned, names = self._offsets(cursor).partitions, self.partitions()
        lags = [self._reader.lag(name, _head(self._reader, planned, name)) for name in names]
        known = [lag for lag in lags if lag is not None]
        return Survey(sum(known) if known else None, len(names))

    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:
        """See `EndlessSource`."""
        self._reader.settle(settled)

    def _offsets(self, cursor: str) -> StreamOffsets:
        return StreamOffsets.parse(cursor or self._spec.offsets)


def _head(reader: StreamReader, planned: Mapping[str, PartitionOffset], partition: str) -> Head:
    """Return where a partition continues; one that is new begins with its first row."""
    found = planned.get(partition)
    return reader.head(partition, at_end=False) if found is None else Head(found.after, found.position)


class _StreamSplitter(Splitter):
    def __init__(
        self, source: StreamInput, offsets: StreamOffsets, spec: StreamSource, reader: StreamReader, clock: Clock
    ) -> None:
        self._source = source
        self._offsets = offsets
        self._spec = spec
        self._reader = reader
        self._clock = clock
        self._turn = 0  # the partition that the next split begins with
        self._waits_since: float | None = None  # since when rows are held back, monotonic

    @property
    def holds_for_s(self) -> float | None:
        """For how long rows are held back yet; None: none are."""
        if self._waits_since is None:
            return None
        return max(self._waits_since + self._spec.max_age_s - self._clock.monotonic(), 0.0)

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`."""
        names = list(self._source.partitions())
        max_rows, planned = min(max_rows, self._spec.max_rows), self._offsets
        slices: list[Slice] = []
        rows = nbytes = 0
        for step in range(len(names)):
            name = names[(self._turn + step) % len(names)]
            if rows >= max_rows or nbytes >= max_bytes:
                break
            head = _head(self._reader, planned.partitions, name)
            found = self._reader.fetch(name, head, max_rows - rows, max_bytes - nbytes)
            if found is None:
                continue
            planned = planned.at(name, self._moved(planned.partitions.get(name), found))
            if found.rows:
                slices.append(range_slice(name, head.offset, found.last, found.rows))
            rows, nbytes = rows + found.rows, nbytes + found.nbytes
        if not slices:
            self._waits_since = None
            changed, self._offsets = planned is not self._offsets, planned
            return NotYet(planned.write() if changed else None)
        if self._holds(is_full=rows >= max_rows or nbytes >= max_bytes):
            return NotYet()
        self._turn, self._waits_since, self._offsets = self._turn + 1, None, planned
        return InputSplit(tuple(slices), rows, nbytes, planned.write())

    def _holds(self, *, is_full: bool) -> bool:
        """Return whether rows that are there wait for others."""
        if is_full or self.is_awaited:
            return False
        if self._waits_since is None:
            self._waits_since = self._clock.monotonic()
        return self.holds_for_s != 0.0

    def _moved(self, before: PartitionOffset | None, found: Fetched) -> PartitionOffset:
        time_ms, lost = (None, 0) if before is None else (before.time_ms, before.lost)
        if found.time_ms is not None:
            time_ms = found.time_ms if time_ms is None else max(time_ms, found.time_ms)
        return PartitionOffset(found.last, found.position, time_ms, int(self._clock.wall() * 1000), lost + found.lost)
