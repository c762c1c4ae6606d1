"""The planner: reads the source of each stage lazily and writes its shards, never far ahead of need.

1. A step looks at each stage of each live job that is not planned to its end. A job that resumes another's output
   begins with what that one left.
2. `PoolView.horizon` says how many shards of a stage should be live; only what is missing is planned.
3. The stage's source is kept open between steps, at the cursor where the last one ended (`OpenSource`). The splitter is
   asked for one split after another. A split becomes a shard; `NotYet` ends the step without an end of the source, and
   a later step continues at the same cursor; `End` marks the stage as planned.
4. One script adds the shards and moves the cursor, by compare-and-set. If it was moved by somebody else, or anything
   fails after the splitter advanced, the open source is dropped, for it is ahead of the ledger: to continue with it
   would leave rows out. The next step opens the source at the ledger's cursor.
5. The ledger counts that a job is being planned until it is; so a job of which the process died twice fails.
6. At the end all rows of a source whose length is known must be in shards, otherwise the job fails.

Planning everything at submit was rejected: a source of a billion rows would fill the ledger, and the size of a shard
could not follow what the first shards show about the operator's speed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from batchmill.caches import Lru
from batchmill.errors import InvalidSource, ServiceUnavailable
from batchmill.ledger.calls import PlanAnswer
from batchmill.ledger.record import stages_of_jobs
from batchmill.ledger.shards import PlanStep
from batchmill.shard import Shard, ShardId
from batchmill.sources.base import End, InputSplit, NotYet
from batchmill_coordinator.fleet.pools import EMPTY, PoolView
from batchmill_coordinator.roles.job_guard import JobGuard
from batchmill_coordinator.scheduling.shard_size import StageProgress, next_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.record import JobStage, StageKey, StageRecord
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import RowCount, Source, Splitter
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.results.resumption import Resumption

MAX_OPEN_SOURCES = 64  # kept open between steps
MAX_DEATHS = 2  # of the process, in a row, while it planned one job
MAX_STORAGE_FAILURES = 30  # steps in a row, at least a second apart


@dataclass(slots=True)
class OpenSource:
    """A stage's source, and its splitter, kept where the last step left it."""

    source: Source
    splitter: Splitter
    cursor: str


@dataclass(slots=True)
class _Draft:
    """The shards of one step, before they are written."""

    cursor: str
    shards: list[Shard] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    at_end: bool = False

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def is_empty(self) -> bool:
        return not self.shards and not self.at_end

    def add(self, job_id: str, stage: StageRecord, split: InputSplit) -> None:
        shard_id = ShardId((stage.shards_planned + len(self.shards),))
        first_row = stage.rows_planned + self.rows
        self.shards.append(Shard(job_id, stage.number, shard_id, first_row, split.rows, split.slices))
        self.sizes.append(split.bytes)
        self.cursor = split.cursor


class Planner:
    """Writes shards. One step plans for every live stage; the cursor in the ledger moves by compare-and-set."""

    name = "planner"
    wakes_on = frozenset({"submitted", "committed", "worker", "resumed"})
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        open_source: Callable[[JobRecord, int], Source],
        resumption: Resumption,
        settings: CoordinatorSettings,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._open_source = open_source
        self._resumption = resumption
        self._settings = settings
        self._open_sources: Lru[StageKey, OpenSource] = Lru(MAX_OPEN_SOURCES)
        self._guard = JobGuard(
            ledger, "its source could not be planned", max_storage_failures=MAX_STORAGE_FAILURES, fails_jobs=True
        )
        self._begun: set[str] = set()  # jobs whose count of plannings in the ledger includes this process

    def step(self, epoch: int) -> None:
        """Plan for every live stage whose shards run low."""
        stages = [one for one in stages_of_jobs(self._ledger.jobs.live()) if _may_plan(one)]
        self._close_all_but({one.key for one in stages})
        self._guard.forget_all_but({one.job.id for one in stages})
        if not stages:
            return
        pools = self._fleet.pools()
        for one in stages:
            wanted = pools.get(one.spec.pool, EMPTY).horizon - one.stage.shards_live
            if (wanted > 0 or one.job.must_resume) and not self._guard.is_set_aside(one.job.id):
                with self._guard.over(one.job.id), self._counted(one.job.id):
                    self._plan(one, pools.get(one.spec.pool, EMPTY), wanted, epoch)

    @contextmanager
    def _counted(self, job_id: str) -> Iterator[None]:
        """Count in the ledger that a job is being planned. Raises `InvalidSource` if the process died of it before."""
        begun = self._ledger.shards.begin_planning(job_id, is_again=job_id in self._begun)
        self._begun.add(job_id)
        if begun > MAX_DEATHS:
            self._end_planning(job_id)
            raise InvalidSource(
                f"the coordinator ended {begun - 1} times in a row while it planned job {job_id}.",
                hint="A file of its source may be damaged, or need more memory than there is. Check them, and submit "
                "the job again.",
            )
        try:
            yield
        except ServiceUnavailable:
            raise  # the ledger may not answer now
        except BaseException:
            self._end_planning(job_id)
            raise
        if job_id in self._begun:
            self._end_planning(job_id)

    def _end_planning(self, job_id: str) -> None:
        self._ledger.shards.end_planning(job_id)
        self._begun.discard(job_id)

    def _plan(self, one: JobStage, pool: PoolView, wanted: int, epoch: int) -> None:
        if one.job.must_resume:
            self._resumption.resume_from(one.job, epoch)
            return
        opened = self._opened(one)
        try:
            draft = self._draft(one, opened, pool, wanted)
            if draft.is_empty:
                return
            total = opened.source.count(draft.cursor)
            _require_every_row(one, draft, total)
            step = PlanStep(draft.shards, draft.sizes, draft.cursor, draft.at_end, total)
            answer = self._ledger.shards.plan(one.job.id, one.stage, step, epoch)
        except BaseException:  # the splitter is ahead of the ledger now: to continue with it would leave rows out
            self._close(one.key)
            raise
        if answer is PlanAnswer.OK:
            self._begun.discard(one.job.id)  # the script has cleared the count
        match answer:
            case PlanAnswer.OK if not draft.at_end:
                opened.cursor = draft.cursor
            case PlanAnswer.OK | PlanAnswer.DEPOSED | PlanAnswer.MOVED | PlanAnswer.OVER:
                self._close(one.key)
            case never:
                assert_never(never)

    def _draft(self, one: JobStage, opened: OpenSource, pool: PoolView, wanted: int) -> _Draft:
        draft = _Draft(opened.cursor)
        while len(draft.shards) < wanted:
            max_rows = self._next_rows(one.stage, draft, opened, pool)
            match opened.splitter.next_split(max_rows, self._settings.shard_max_bytes):
                case InputSplit() as split:
                    draft.add(one.job.id, one.stage, split)
                case NotYet():
                    return draft
                case End():
                    draft.at_end = True
                    return draft
                case never:
                    assert_never(never)
        return draft

    def _next_rows(self, stage: StageRecord, draft: _Draft, opened: OpenSource, pool: PoolView) -> int:
        total = opened.source.count(draft.cursor)
        progress = StageProgress(
            rows_timed=stage.rows_timed,
            busy_s=stage.busy_us / 1e6,
            shards_done=stage.shards_done,
            rows_left=max(total.rows - stage.rows_planned - draft.rows, 0) if total.exact else None,
            workers=pool.workers,
        )
        return next_rows(progress, self._settings.shard_target_s)

    def _opened(self, one: JobStage) -> OpenSource:
        """Return the stage's open source if it is where the ledger's cursor is, otherwise open it there."""
        key, cursor = one.key, one.stage.cursor
        opened = self._open_sources.get(key)
        if opened is not None and opened.cursor == cursor:
            return opened
        self._close(key)
        source = self._open_source(one.job, one.stage.number)
        opened = OpenSource(source, source.splitter(cursor), cursor)
        for dropped in self._open_sources.put(key, opened):
            dropped.splitter.close()
        return opened

    def _close(self, key: StageKey) -> None:
        opened = self._open_sources.pop(key)
        if opened is not None:
            opened.splitter.close()

    def _close_all_but(self, keys: set[StageKey]) -> None:
        for key in set(self._open_sources.keys()) - keys:
            self._close(key)


def _require_every_row(one: JobStage, draft: _Draft, total: RowCount) -> None:
    """Raise `InvalidSource` if the source is at its end and not all of its rows are in shards."""
    planned = one.stage.rows_planned + draft.rows
    if draft.at_end and total.exact and planned != total.rows:
        raise InvalidSource(
            f"the source of job {one.job.id} ended after {planned:,} rows, {total.rows:,} were expected.",
            hint="Submit the job again, and leave its source alone until it has ended.",
        )


def _may_plan(one: JobStage) -> bool:
    return one.job.state.takes_shards and not one.stage.planned
