"""The stream keeper: measures streams, and reports to their sources what is settled.

1. Each step goes through the live jobs that read streams. How many rows wait in the source is noted in the ledger, from
   where status, metrics and the wanted number of workers have it; so is that a source is away.
2. Shards read a partition in its order, so everything before the first live shard is settled. This is reported to the
   sources, to delete what no job needs: of several jobs that read one stream, the one that is least far counts, and a
   job that wants nothing deleted keeps it for all.
3. Nothing is deleted before it is settled, and nothing depends on its being deleted.
4. Results of streams are deleted when they are old, or too many (`StreamRetention`); so are rows that were sent to a
   stream and that no job has taken for long.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from batchmill.errors import StreamUnavailable
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.jobs.streams.offsets import StreamOffsets, settled_offsets
from batchmill.sources.base import EndlessSource
from batchmill.streams.pushed import delete_pushed
from batchmill_coordinator.roles.job_guard import JobGuard, apart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.sources.base import Source
    from batchmill.storage.blobs import BlobStore
    from batchmill_coordinator.results.stream_retention import StreamRetention


class StreamKeeper:
    """Keeps the streams of live jobs, as the leader."""

    name = "stream-keeper"
    wakes_on: frozenset[str] = frozenset()
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        open_source: Callable[[JobRecord, int], Source],
        retention: StreamRetention,
        blobs: BlobStore,
        pushed_ttl_s: float,
    ) -> None:
        self._ledger = ledger
        self._open_source = open_source
        self._retention = retention
        self._blobs = blobs
        self._pushed_ttl_s = pushed_ttl_s
        self._guard = JobGuard(ledger, "its stream could not be measured")

    def step(self, epoch: int) -> None:
        """Measure every stream, and settle it."""
        records = self._ledger.jobs.read_many(self._ledger.streams.live_jobs())
        now_ms = self._ledger.now_ms()
        self._guard.forget_all_but({record.id for record in records})
        self._retention.forget_all_but({record.id for record in records})
        groups: dict[tuple[str, ...], list[JobRecord]] = defaultdict(list)
        for record in records:
            if record.spec.stream is not None:
                groups[record.spec.stream.identity].append(record)
                if not self._guard.is_set_aside(record.id):
                    with self._guard.over(record.id):
                        self._measure(record, epoch)
                        self._retention.apply(record, now_ms, epoch)
        for group in groups.values():
            if not self._guard.is_set_aside(group[0].id):
                with self._guard.over(group[0].id):
                    self._settle(group)
        oldest = f"{now_ms - int(self._pushed_ttl_s * 1000)}-0"
        for tenant, name in self._ledger.streams.all_pushed():
            with apart(f"deleting old rows of the stream {name!r}"):
                delete_pushed(self._ledger.streams, self._blobs, tenant, name, oldest)

    def _measure(self, record: JobRecord, epoch: int) -> None:
        lag: int | None = None
        away = ""
        try:
            lag = self._source(record).survey(record.first.cursor).lag
        except StreamUnavailable as error:
            away = error.message
        self._ledger.streams.note(record.id, lag, away, epoch)

    def _settle(self, group: Sequence[JobRecord]) -> None:
        if not all(record.spec.stream and record.spec.stream.trims for record in group):
            return
        self._source(group[0]).settle([self._settled(record) for record in group])

    def _settled(self, record: JobRecord) -> dict[str, str]:
        live = self._ledger.streams.live_slices(record.id, FIRST_STAGE)  # after the record: never too far
        return settled_offsets(StreamOffsets.parse(record.first.cursor), live)

    def _source(self, record: JobRecord) -> EndlessSource:
        source = self._open_source(record, FIRST_STAGE)
        if not isinstance(source, EndlessSource):
            raise AssertionError(f"job {record.id} reads no stream")
        return source
