"""The stream keeper: measures streams, and reports to their sources what is settled.

1. Each step goes through the live jobs that read streams. How many rows wait in the source is noted in the ledger, from
   where status, metrics and the wanted number of workers have it; so is that a source is away.
2. Shards read a partition in its order, so everything before the first live shard is settled. This is reported to the
   sources, to delete what no job needs: of several jobs that read one stream, the one that is least far counts, and a
   job that wants nothing deleted keeps it for all. The ledger notes which drained jobs have ended since the last step:
   they are reported once more, if need be by the next leader.
3. Nothing is deleted before it is settled, and nothing depends on its being deleted.
4. Results of streams are deleted when they are old, or too many (`StreamRetention`); so are rows that were sent to a
   stream and that no job has taken for long.
5. Sources are asked side by side (`SourceCalls`), and a step waits for `ANSWER_S` at most: a server that hangs delays
   neither other jobs nor what is deleted. Its answer is taken when it comes.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from batchmill.errors import StreamUnavailable
from batchmill.jobs.job import JobState
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.jobs.streams.offsets import StreamOffsets, settled_offsets
from batchmill.ledger import JobRecord
from batchmill.sources.base import EndlessSource
from batchmill.streams.pushed import delete_pushed
from batchmill_coordinator.roles.job_guard import JobGuard, apart
from batchmill_coordinator.roles.streams.source_calls import SourceCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill.ledger import Ledger
    from batchmill.sources.base import Source
    from batchmill.storage.blobs import BlobStore
    from batchmill_coordinator.results.stream_retention import StreamRetention


DRAINED_TTL_MS = 3_600_000
"""For how long settled rows of a job that has ended are reported to its source, while that does not answer."""

ANSWER_S = 0.5
"""How long a step waits for the sources of streams."""


class _Call(NamedTuple):
    """What a source is asked for which job."""

    what: Literal["measure", "settle"]
    job_id: str


class _Answer(NamedTuple):
    """The lag of a stream, if it is known, and why its source is away."""

    lag: int | None
    away: str = ""


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
        answer_s: float = ANSWER_S,
    ) -> None:
        self._ledger = ledger
        self._open_source = open_source
        self._retention = retention
        self._blobs = blobs
        self._pushed_ttl_s = pushed_ttl_s
        self._answer_s = answer_s
        self._guard = JobGuard(ledger, "its stream could not be measured")
        self._retention_guard = JobGuard(ledger, "old results of it could not be deleted")
        self._calls: SourceCalls[_Call, _Answer | None] = SourceCalls()
        self._turn = 0  # of the jobs, by which they come first

    def step(self, epoch: int) -> None:
        """Measure every stream, and settle it."""
        records = self._ledger.jobs.read_many(self._ledger.streams.live_jobs())
        now_ms = self._ledger.now_ms()
        live = {record.id for record in records}
        drained = self._drained(now_ms)
        asked = live | {record.id for record in drained}
        self._guard.forget_all_but(asked)
        self._retention_guard.forget_all_but(live)
        self._retention.forget_all_but(live)
        self._ask([*records, *drained])
        for record in records:
            if not self._retention_guard.is_set_aside(record.id):
                with self._retention_guard.over(record.id):
                    self._retention.apply(record, now_ms, epoch)
        self._take_answers(live, asked, epoch)
        oldest = f"{now_ms - int(self._pushed_ttl_s * 1000)}-0"
        for tenant, name in self._ledger.streams.all_pushed():
            with apart(f"deleting old rows of the stream {name!r}"):
                delete_pushed(self._ledger.streams, self._blobs, tenant, name, oldest)

    def _drained(self, now_ms: int) -> list[JobRecord]:
        """Return completed jobs to settle. Those that have nothing deleted, or were deleted, are not read again."""
        job_ids = self._ledger.streams.drained_jobs(now_ms - DRAINED_TTL_MS)
        found = self._ledger.jobs.find_many(job_ids)
        readable = [one for one in found if isinstance(one, JobRecord)]
        drained = [one for one in readable if one.spec.stream is not None and one.spec.stream.trims]
        unreadable = {one.id for one in found} - {one.id for one in readable}  # another version settles them
        self._ledger.streams.forget_drained(sorted(set(job_ids) - unreadable - {one.id for one in drained}))
        return drained

    def _ask(self, records: Sequence[JobRecord]) -> None:
        """Begin to measure and to settle the streams of all jobs; one that cannot be begun comes first another time.

        Jobs that have completed are only settled.
        """
        groups: dict[tuple[str, ...], list[JobRecord]] = defaultdict(list)
        for record in records:
            if record.spec.stream is not None:
                groups[record.spec.stream.identity].append(record)
        calls: list[tuple[_Call, Callable[[], _Answer | None]]] = []
        for group in groups.values():
            live = (one for one in group if one.state is not JobState.COMPLETED)
            calls += ((_Call("measure", one.id), partial(self._measure, one)) for one in live)
            calls.append((_Call("settle", group[0].id), partial(self._settle, group)))
        self._turn = self._turn % max(len(calls), 1)
        for call, work in (*calls[self._turn :], *calls[: self._turn]):
            if not self._guard.is_set_aside(call.job_id) and self._calls.begin(call, work):
                self._turn += 1

    def _take_answers(self, live: set[str], asked: set[str], epoch: int) -> None:
        """Note the answers. asked: the live jobs, and drained ones, whose sources may be away for long as well."""
        for call, future in self._calls.ended(self._answer_s):
            if call.job_id in asked:
                with self._guard.over(call.job_id):
                    answer = future.result()
                    if answer is not None and call.job_id in live:
                        self._ledger.streams.note(call.job_id, answer.lag, answer.away, epoch)

    def _measure(self, record: JobRecord) -> _Answer:
        try:
            return _Answer(self._source(record).survey(record.first.cursor).lag)
        except StreamUnavailable as error:
            return _Answer(None, error.message)

    def _settle(self, group: Sequence[JobRecord]) -> None:
        if not all(record.spec.stream and record.spec.stream.trims for record in group):
            return
        self._source(group[0]).settle([self._settled(record) for record in group])
        self._ledger.streams.forget_drained([one.id for one in group if one.state is JobState.COMPLETED])

    def _settled(self, record: JobRecord) -> dict[str, str]:
        if record.state is JobState.COMPLETED:
            return settled_offsets(StreamOffsets.parse(record.savepoint), ())
        live = self._ledger.streams.live_slices(record.id, FIRST_STAGE)  # after the record: never too far
        return settled_offsets(StreamOffsets.parse(record.first.cursor), live)

    def _source(self, record: JobRecord) -> EndlessSource:
        source = self._open_source(record, FIRST_STAGE)
        if not isinstance(source, EndlessSource):
            raise AssertionError(f"job {record.id} reads no stream")
        return source
