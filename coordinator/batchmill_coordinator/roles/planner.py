"""The planner: reads each job's source lazily and writes its shards, never far ahead of need."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError, InvalidSource, ServiceUnavailable, StorageError
from batchmill.job import JobError, JobState
from batchmill.job_log import LogEvent, LogLevel
from batchmill.ledger.shards import PlanStep
from batchmill.shard import Shard, ShardId
from batchmill.telemetry.log_context import about
from batchmill_coordinator.fleet.pools import EMPTY, PoolView
from batchmill_coordinator.scheduling.shard_size import Progress, next_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import Cutter, Piece, RowCount, Source
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.results.resumption import Resumption

log = logging.getLogger(__name__)

MAX_WALKS = 64  # sources kept open between steps
MAX_TROUBLES = 30  # steps, at least a second apart, that a job's storage may fail in a row


@dataclass(slots=True)
class Walk:
    """A job's source, and the walk along it, kept where the last step left it."""

    source: Source
    cutter: Cutter
    cursor: str


@dataclass(slots=True)
class _Draft:
    """The shards of one step, before they are written."""

    cursor: str
    shards: list[Shard] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    at_end: bool = False

    def add(self, record: JobRecord, piece: Piece) -> None:
        number = record.shards_planned + len(self.shards)
        first_row = record.rows_planned + sum(shard.rows for shard in self.shards)
        self.shards.append(Shard(record.id, ShardId((number,)), first_row, piece.rows, piece.slices))
        self.sizes.append(piece.bytes)
        self.cursor = piece.cursor


class Planner:
    """Writes shards. One step plans for every live job; the cursor in the ledger moves by compare-and-set."""

    name = "planner"
    wakes_on = frozenset({"submitted", "committed", "worker", "resumed"})
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        open_source: Callable[[JobRecord], Source],
        resumption: Resumption,
        settings: CoordinatorSettings,
    ) -> None:
        self._resumption = resumption
        self._ledger = ledger
        self._fleet = fleet
        self._open_source = open_source
        self._settings = settings
        self._walks: OrderedDict[str, Walk] = OrderedDict()
        self._troubles: dict[str, int] = {}  # by job: steps in a row that met a StorageError

    def step(self, epoch: int) -> None:
        """Plan for every live job whose shards run low."""
        records = [record for record in self._ledger.jobs.live() if _may_plan(record)]
        self._forget_all_but({record.id for record in records})
        if not records:
            return
        pools = self._fleet.pools()
        for record in records:
            with about(job=record.id):
                self._plan_or_tell(record, pools.get(record.spec.pool, EMPTY), epoch)

    def _plan_or_tell(self, record: JobRecord, pool: PoolView, epoch: int) -> None:
        try:
            self._plan(record, pool, epoch)
            self._troubles.pop(record.id, None)
        except ServiceUnavailable:
            raise
        except StorageError as error:
            self._bear(record, error)
        except BatchmillError as error:
            self._fail(record, error)

    def _plan(self, record: JobRecord, pool: PoolView, epoch: int) -> None:
        if record.adopts:
            self._resumption.adopt(record, epoch)
            return
        room = pool.horizon - record.shards_live
        if room <= 0:
            return
        walk = self._walk(record)
        try:
            draft = self._draft(record, walk, pool, room)
            total = walk.source.count(draft.cursor)
            _require_every_row(record, draft, total)
            step = PlanStep(draft.shards, draft.sizes, draft.cursor, draft.at_end, total)
            word = self._ledger.shards.plan(record, step, epoch)
        except BaseException:  # the walk is ahead of the ledger now: whoever goes on with it would leave rows out
            self._forget(record.id)
            raise
        if word == "ok" and not draft.at_end:
            walk.cursor = draft.cursor
        else:
            self._forget(record.id)

    def _draft(self, record: JobRecord, walk: Walk, pool: PoolView, room: int) -> _Draft:
        draft = _Draft(walk.cursor)
        while len(draft.shards) < room and not draft.at_end:
            rows = self._next_rows(record, draft, walk, pool)
            piece = walk.cutter.cut(rows, self._settings.shard_max_bytes)
            if piece is None:
                draft.at_end = True
            else:
                draft.add(record, piece)
        return draft

    def _next_rows(self, record: JobRecord, draft: _Draft, walk: Walk, pool: PoolView) -> int:
        total = walk.source.count(draft.cursor)
        planned = record.rows_planned + sum(shard.rows for shard in draft.shards)
        progress = Progress(
            rows_timed=record.rows_timed,
            busy_s=record.busy_us / 1e6,
            shards_done=record.shards_done,
            rows_left=max(total.rows - planned, 0) if total.exact else None,
            workers=pool.workers,
        )
        return next_rows(progress, self._settings.shard_target_s)

    def _walk(self, record: JobRecord) -> Walk:
        walk = self._walks.get(record.id)
        if walk is not None and walk.cursor == record.cursor:
            self._walks.move_to_end(record.id)
            return walk
        self._forget(record.id)
        source = self._open_source(record)
        walk = self._walks[record.id] = Walk(source, source.cutter(record.cursor), record.cursor)
        if len(self._walks) > MAX_WALKS:
            self._forget(next(iter(self._walks)))
        return walk

    def _forget(self, job_id: str) -> None:
        walk = self._walks.pop(job_id, None)
        if walk is not None:
            walk.cutter.close()

    def _forget_all_but(self, job_ids: set[str]) -> None:
        for job_id in self._walks.keys() - job_ids:
            self._forget(job_id)

    def _bear(self, record: JobRecord, error: StorageError) -> None:
        """A disk or bucket that failed may come back: try again at the next steps, but not for ever."""
        self._forget(record.id)
        self._troubles[record.id] = self._troubles.get(record.id, 0) + 1
        if self._troubles[record.id] >= MAX_TROUBLES:
            self._fail(record, error)
        else:
            log.warning("job %s could not be planned and is tried again: %s", record.id, error)
            if self._troubles[record.id] == 1:
                told = f"its source could not be read, which is tried again: {error}"
                self._ledger.log.note(record.id, LogLevel.WARNING, LogEvent.STORAGE_RETRY, told)

    def _fail(self, record: JobRecord, error: BatchmillError) -> None:
        log.warning("job %s cannot be planned: %s", record.id, error)
        self._forget(record.id)
        self._troubles.pop(record.id, None)
        failure = JobError(code=error.code, message=str(error), details=error.details)
        self._ledger.jobs.stop(record.id, JobState.FAILING, failure)


def _require_every_row(record: JobRecord, draft: _Draft, total: RowCount) -> None:
    """Raise `InvalidSource` if the source is at its end and not all of its rows are in shards."""
    planned = record.rows_planned + sum(shard.rows for shard in draft.shards)
    if draft.at_end and total.exact and planned != total.rows:
        raise InvalidSource(
            f"the source of job {record.id} ended after {planned:,} rows, {total.rows:,} were expected.",
            hint="Submit the job again, and leave its source alone until it has ended.",
        )


def _may_plan(record: JobRecord) -> bool:
    return record.state in (JobState.PENDING, JobState.RUNNING) and not record.planned
