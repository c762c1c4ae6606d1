"""Streams of rows that were sent to the service: entries in the ledger, each with rows or the blob that has them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchmill.errors import NotFound, ServiceUnavailable, StreamUnavailable
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.sources.base import RowsRead
from batchmill.streams.base import Fetched, Head, StreamReader
from batchmill.streams.messages import times_ms, united, with_lost
from batchmill.streams.redis_stream import BEGINNING, PARTITION, is_behind, parse_id
from batchmill.workspace import table_from_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from batchmill.jobs.streams.source import Push
    from batchmill.ledger.streams import PushedEntry, StreamLedger
    from batchmill.storage.blobs import BlobStore

ENTRIES_AT_ONCE = 64
"""Entries that a look at the stream reads."""


class PushReader(StreamReader):
    """Reads a stream of rows that were sent. types: given types of columns."""

    def __init__(self, ledger: StreamLedger, blobs: BlobStore, spec: Push, types: Mapping[str, pa.DataType]) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._spec = spec
        self._types = types
        self._name = (spec.tenant or DEFAULT_TENANT, spec.stream)

    def partitions(self) -> Sequence[str]:
        """See `StreamReader`."""
        return (PARTITION,)

    def head(self, partition: str, *, at_end: bool) -> Head:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        with _errors(self._spec):
            if at_end:
                last = self._ledger.last_pushed(*self._name)
                return Head(last.offset if last else BEGINNING, self._ledger.pushed_state(*self._name).rows)
            first = self._ledger.pushed_entries(*self._name, BEGINNING, limit=1)
        return Head(BEGINNING, first[0].end - first[0].rows if first else 0)

    def fetch(self, partition: str, after: Head, max_rows: int, max_bytes: int) -> Fetched | None:  # noqa: ARG002  # there is one
        """See `StreamReader`. Rows that were sent together are not cut."""
        with _errors(self._spec):
            entries = self._ledger.pushed_entries(*self._name, after.offset, limit=ENTRIES_AT_ONCE)
        taken: list[PushedEntry] = []
        rows = nbytes = 0
        for one in entries:
            if taken and (rows + one.rows > max_rows or nbytes + one.nbytes > max_bytes):
                break
            taken.append(one)
            rows, nbytes = rows + one.rows, nbytes + one.nbytes
        if not taken:
            return None
        lost = max(taken[0].end - taken[0].rows - after.position, 0)
        times = [at for one in taken if (at := self._time_ms(one)) is not None]
        return Fetched(taken[-1].offset, rows, nbytes, taken[-1].end, max(times, default=None), lost)

    def read(self, partition: str, after: str, last: str, rows: int) -> RowsRead:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        tables: list[pa.Table] = []
        while is_behind(last, after):
            with _errors(self._spec):
                entries = self._ledger.pushed_entries(*self._name, after, last, ENTRIES_AT_ONCE)
            if not entries:
                break
            tables += [table for one in entries if (table := self._table(one)) is not None]
            after = entries[-1].offset
        found = united([RowsRead(table) for table in tables], self._types, self._spec.title)
        return with_lost(found, rows - found.table.num_rows, self._spec.title)

    def lag(self, partition: str, after: Head) -> int:  # noqa: ARG002  # there is one
        """See `StreamReader`. A stream that was deleted and made anew counts from 0 again, behind all offsets."""
        with _errors(self._spec):
            following = self._ledger.pushed_entries(*self._name, after.offset, limit=1)
            if not following:
                return 0
            sent = self._ledger.pushed_state(*self._name).rows
        return max(sent - (following[0].end - following[0].rows), 0)

    def wait(self, offsets: Mapping[str, str], timeout_s: float) -> bool:
        """See `StreamReader`."""
        with _errors(self._spec):
            return self._ledger.wait_for_pushed(*self._name, offsets[PARTITION], timeout_s)

    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:
        """Delete the entries that no job needs, some at a time."""
        if all(PARTITION in one for one in settled):
            last = min((one[PARTITION] for one in settled), key=parse_id)
            with _errors(self._spec):
                delete_pushed(self._ledger, self._blobs, *self._name, last)

    def _table(self, entry: PushedEntry) -> pa.Table | None:
        """Read the rows of an entry; None if they are gone."""
        if entry.data is not None:
            return table_from_stream(entry.data)
        try:
            return self._blobs.read_table(entry.blob or "")
        except NotFound:
            return None

    def _time_ms(self, entry: PushedEntry) -> int | None:
        if self._spec.time is None:
            return parse_id(entry.offset)[0]
        table = self._table(entry)
        if table is None or self._spec.time not in table.column_names:
            return None
        times = [at for at in times_ms(table[self._spec.time]) if at is not None]
        return max(times, default=None)


def delete_pushed(ledger: StreamLedger, blobs: BlobStore, tenant: str, name: str, last: str) -> int:
    """Delete the entries up to an offset, the oldest first, at most some hundreds; returns how many.

    Blobs go first: an entry whose blob is gone is deleted at the next time.
    """
    entries = ledger.pushed_entries(tenant, name, BEGINNING, last)
    blobs.delete(*(one.blob for one in entries if one.blob is not None))
    return ledger.trim_pushed(tenant, name, entries) if entries else 0


@contextmanager
def _errors(spec: Push) -> Iterator[None]:
    try:
        yield
    except ServiceUnavailable as error:
        raise StreamUnavailable(f"{spec.title} cannot be read: {error.message}", hint=error.hint) from error
