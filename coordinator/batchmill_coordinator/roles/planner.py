"""The planner: reads the source of each stage lazily and writes its shards, never far ahead of need.

1. A step reads from an index stages that have too few live shards, in turns of tenants, operators and parameters, and
   plans them side by side in a few threads, a stage in one of them at a time. A step ends when nothing is left to do,
   or after `period_s`; a source that takes longer keeps its thread, and delays only itself. A tenant has at most half
   of the threads. A few stages in pools without workers are planned when there is nothing else. A job that resumes
   another's output begins with what that one left.
2. `PoolView.horizon` says how many shards of a stage should be live; only what is missing is planned.
3. The stage's source is kept open between steps, at the cursor where the last one ended (`OpenSource`). The splitter is
   asked for one split after another. A split becomes a shard; `NotYet` ends the step without an end of the source, and
   a later step continues at the same cursor; `End` marks the stage as planned.
4. One script adds the shards and moves the cursor, by compare-and-set. If it was moved by somebody else, or anything
   fails after the splitter advanced, the open source is dropped, for it is ahead of the ledger: to continue with it
   would leave rows out. The next step opens the source at the ledger's cursor.
5. The ledger counts that a job is being planned until it is; so a job of which the process died twice fails.
6. At the end all rows of a source whose length is known must be in shards, otherwise the job fails.
7. A source without an end has rows at any time. While there are none, `StreamWaits` waits for them beside the steps,
   and wakes the planner; the stage is left out meanwhile. How many rows such a source has is never written.

Planning everything at submit was rejected: a source of a billion rows would fill the ledger, and the size of a shard
could not follow what the first shards show about the operator's speed.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, assert_never

from batchmill.caches import Lru
from batchmill.errors import InvalidSource, ServiceUnavailable
from batchmill.jobs.shard import FIRST_ROWS, Shard, ShardId
from batchmill.jobs.stage_cost import first_rows
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.scripting.calls import PlanAnswer
from batchmill.sources.base import End, InputSplit, NotYet, RowCount
from batchmill.sources.undivided import UndividedSplitter
from batchmill.telemetry.log_context import about
from batchmill_coordinator.fleet.device_paces import DevicePaces
from batchmill_coordinator.fleet.pools import EMPTY, PoolView
from batchmill_coordinator.roles.job_guard import JobGuard
from batchmill_coordinator.roles.streams.stream_waits import StreamWaits
from batchmill_coordinator.scheduling.buffer_credit import shard_limits
from batchmill_coordinator.scheduling.shard_size import UNLIMITED_ROWS, StageProgress, next_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import JobStage, StageKey, StageRecord
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import Source, Splitter
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.results.resuming.resumption import Resumption

MAX_OPEN_SOURCES = 64  # kept open between steps
MAX_THREADS = 8
LOOK_AGAIN_S = 0.05  # for other stages to plan, while sources are slow
MAX_STAGES_READ = 32  # of a pool at once
MAX_IDLE_POOLS = 4  # of those without workers: this many of their stages are planned in a step
MAX_DEATHS = 2  # of the process, in a row, while it planned one job
MAX_STORAGE_FAILURES = 30  # steps in a row, at least a second apart
STREAMED = "streamed"  # what wakes it when a stream has rows; this process alone knows


@dataclass(slots=True)
class OpenSource:
    """A stage's source, and its splitter, kept where the last step left it."""

    source: Source
    splitter: Splitter
    cursor: str


@dataclass(frozen=True, slots=True)
class _Task:
    """A stage that is being planned."""

    tenant: str
    future: Future[None]
    is_alone: bool  # no other stage may be planned meanwhile


class _Found(NamedTuple):
    """Stages to plan. are_all: whether there is no other one in a pool with workers."""

    stages: list[JobStage]
    are_all: bool


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

    def is_empty(self, cursor: str) -> bool:
        """Return whether there is nothing to write; cursor: the ledger's."""
        return not self.shards and not self.at_end and self.cursor == cursor

    def add(self, job_id: str, stage: StageRecord, split: InputSplit) -> None:
        for slices in (split.slices, *split.others):
            shard_id = ShardId((stage.shards_planned + len(self.shards),))
            first_row = stage.rows_planned + self.rows
            self.shards.append(Shard(job_id, stage.number, shard_id, first_row, split.rows, slices))
            self.sizes.append(split.bytes)
        self.cursor = split.cursor


def _wake_nobody() -> None:
    """The next step is not urgent."""


class Planner:
    """Writes shards. One step plans for every live stage; the cursor in the ledger moves by compare-and-set."""

    name = "planner"
    wakes_on = frozenset({"submitted", "committed", "settled", "worker", "resumed", STREAMED})
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        open_source: Callable[[JobRecord, int], Source],
        resumption: Resumption,
        settings: CoordinatorSettings,
        wake: Callable[[], None] = _wake_nobody,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._paces = DevicePaces(ledger, fleet)
        self._open_source = open_source
        self._resumption = resumption
        self._settings = settings
        self._open_sources: Lru[StageKey, OpenSource] = Lru(MAX_OPEN_SOURCES)
        self._running: dict[StageKey, _Task] = {}
        self._guard = JobGuard(
            ledger, "its source could not be planned", max_storage_failures=MAX_STORAGE_FAILURES, fails_jobs=True
        )
        self._waits = StreamWaits(wake)
        self._drops_at = 0.0  # when it looks again for sources to close, monotonic
        self._begun: set[str] = set()  # jobs whose count of plannings in the ledger includes this process

    def step(self, epoch: int) -> None:
        """Plan for stages whose shards run low, each once; return after `period_s` at the latest."""
        pools, ends_at = self._fleet.pools(), time.monotonic() + self.period_s
        seen: set[StageKey] = set()
        self._collect()
        self._drop_what_ended()
        while time.monotonic() < ends_at:
            found = self._to_plan(pools, seen)
            for one in found.stages:
                if self._has_thread_for(one):
                    seen.add(one.key)
                    self._running[one.key] = self._start(one, pools.get(one.spec.pool, EMPTY), epoch)
            if not self._running:
                return
            wait([task.future for task in self._running.values()], LOOK_AGAIN_S, FIRST_COMPLETED)
            self._collect()
            if not self._running and found.are_all and all(one.key in seen for one in found.stages):
                return  # what there is to plan by now has woken the next step

    def _start(self, one: JobStage, pool: PoolView, epoch: int) -> _Task:
        """Plan a stage in a thread, which ends with the process even if the source never answers."""
        future: Future[None] = Future()
        task = _Task(one.job.tenant, future, self._is_suspect(one))

        def run() -> None:
            try:
                with about(role=self.name), self._guard.over(one.job.id), self._counted(one):
                    self._plan(one, pool, pool.horizon - one.stage.shards_live, epoch)
            except BaseException as error:  # noqa: BLE001  # raised by the step that collects the task
                future.set_exception(error)
            else:
                future.set_result(None)

        Thread(target=run, name=f"{self.name} {one.job.id}", daemon=True).start()
        return task

    def _to_plan(self, pools: Mapping[str, PoolView], seen: Collection[StageKey]) -> _Found:
        """Return some stages that may have too few live shards, without those that were seen or are being planned."""
        index = self._ledger.index
        waiting = self._waits.keys()
        horizons = {name: pool.horizon for name, pool in pools.items()}
        limit = MAX_STAGES_READ + len(waiting) + len(seen)
        keys = index.to_plan(horizons, limit)
        fresh = [key for key in keys if key not in seen and key not in self._running and key not in waiting]
        if not fresh and not seen:
            idle = dict.fromkeys(set(index.pools_to_plan(MAX_IDLE_POOLS)) - pools.keys(), EMPTY.horizon)
            fresh = [key for key in index.to_plan(idle, 1) if key not in self._running]
        stages = [one for one in self._ledger.jobs.read_stages(fresh) if self._has_to_plan(one, pools)]
        return _Found(sorted(stages, key=lambda one: -one.job.spec.priority), are_all=len(keys) < limit)

    def _has_to_plan(self, one: JobStage, pools: Mapping[str, PoolView]) -> bool:
        wanted = pools.get(one.spec.pool, EMPTY).horizon - one.stage.shards_live
        is_due = one.job.must_resume or (wanted > 0 and not _waits_for_own_shard(one))
        return is_due and _may_plan(one) and not self._guard.is_set_aside(one.job.id)

    def _has_thread_for(self, one: JobStage) -> bool:
        """Return whether a stage may be planned now; one during whose planning the process died is planned alone."""
        if self._is_suspect(one) or any(task.is_alone for task in self._running.values()):
            return not self._running
        own = sum(task.tenant == one.job.tenant for task in self._running.values())
        return len(self._running) < MAX_THREADS and own < MAX_THREADS // 2

    def _is_suspect(self, one: JobStage) -> bool:
        return one.stage.number == FIRST_STAGE and one.job.plannings > 0 and one.job.id not in self._begun

    def _collect(self) -> None:
        """Take the tasks that have ended out of those that run. Raises what one of them raised."""
        for key, task in list(self._running.items()):
            if task.future.done():
                del self._running[key]
                task.future.result()

    def _drop_what_ended(self) -> None:
        """Close the sources of stages that are not planned any more, and forget the failures of their jobs.

        Once in a period: a stream has many steps, and each would read all stages with open sources.
        """
        if time.monotonic() < self._drops_at:
            return
        self._drops_at = time.monotonic() + self.period_s
        keys = set(self._open_sources.keys()) - self._running.keys()
        known = {(job_id, FIRST_STAGE) for job_id in self._guard.job_ids()} | keys
        alive = [one for one in self._ledger.jobs.read_stages(known) if _may_plan(one)] if known else []
        for key in keys - {one.key for one in alive}:
            self._close(key)
            self._waits.drop(key)
        self._guard.forget_all_but({one.job.id for one in alive} | {job_id for job_id, _ in self._running})

    @contextmanager
    def _counted(self, one: JobStage) -> Iterator[None]:
        """Count in the ledger that a job is being planned. Raises `InvalidSource` if the process died of it before.

        Only the first stage reads files of a user; the messages of a stream are not decoded here.
        """
        if one.stage.number != FIRST_STAGE or one.job.spec.stream is not None:
            yield
            return
        job_id = one.job.id
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
            if draft.is_empty(one.stage.cursor):
                self._keep_open(one.key, opened)
                self._waits.begin(one.key, opened.source, opened.splitter, opened.cursor)
                return
            total = _total(one, opened, draft)
            _require_every_row(one, draft, total)
            if draft.at_end and total is not None and not total.exact:
                total = RowCount(one.stage.rows_planned + draft.rows, exact=True)
            step = PlanStep(draft.shards, draft.sizes, draft.cursor, draft.at_end, total)
            answer = self._ledger.shards.plan(one.job.id, one.stage, step, epoch)
        except BaseException:  # the splitter is ahead of the ledger now: to continue with it would leave rows out
            opened.splitter.close()
            raise
        if answer is PlanAnswer.OK and one.stage.number == FIRST_STAGE:
            self._begun.discard(one.job.id)  # the script has cleared the count
        match answer:
            case PlanAnswer.OK if not draft.at_end:
                opened.cursor = draft.cursor
                self._keep_open(one.key, opened)
            case PlanAnswer.OK | PlanAnswer.DEPOSED | PlanAnswer.MOVED | PlanAnswer.OVER:
                opened.splitter.close()
            case never:
                assert_never(never)

    def _draft(self, one: JobStage, opened: OpenSource, pool: PoolView, wanted: int) -> _Draft:
        draft, limits = _Draft(opened.cursor), shard_limits(one, pool.capacity + pool.window)
        first = self._first_rows(one) if one.stage.shards_done == 0 else FIRST_ROWS
        max_bytes = min(self._settings.shard_max_bytes, limits.nbytes or self._settings.shard_max_bytes)
        while len(draft.shards) < wanted:
            max_rows = self._next_rows(one, draft, opened, pool, first)
            opened.splitter.is_awaited = one.stage.shards_live + len(draft.shards) < pool.capacity
            match opened.splitter.next_split(min(max_rows, limits.rows or max_rows), max_bytes):
                case InputSplit() as split:
                    draft.add(one.job.id, one.stage, split)
                case NotYet(cursor):
                    draft.cursor = draft.cursor if cursor is None else cursor
                    return draft
                case End():
                    draft.at_end = True
                    return draft
                case never:
                    assert_never(never)
        return draft

    def _first_rows(self, one: JobStage) -> int:
        operator = self._fleet.operator(one.spec.operator)
        return first_rows(self._ledger.profiles.cost_of(one.spec, operator.version) if operator else None)

    def _next_rows(self, one: JobStage, draft: _Draft, opened: OpenSource, pool: PoolView, first: int) -> int:
        if one.job.spec.undivided:
            return UNLIMITED_ROWS
        stage = one.stage
        total = _total(one, opened, draft)
        progress = StageProgress(
            rows_timed=stage.rows_timed,
            busy_s=one.busy_us / 1e6,
            shards_done=stage.shards_done,
            rows_left=max(total.rows - stage.rows_planned - draft.rows, 0) if total and total.exact else None,
            workers=self._paces.workers(stage.spec, pool),
            first_rows=first,
        )
        return max(next_rows(progress, self._settings.shard_target_s), stage.spec.min_shard_rows)

    def _opened(self, one: JobStage) -> OpenSource:
        """Return the stage's open source if it is where the ledger's cursor is, otherwise open it there.

        It is not among the open sources until `_keep_open`, so that no other thread closes it.
        """
        cursor = one.stage.cursor
        opened = self._open_sources.pop(one.key)
        if opened is not None and opened.cursor == cursor:
            return opened
        if opened is not None:
            opened.splitter.close()
        source = self._open_source(one.job, one.stage.number)
        splitter = source.splitter(cursor)
        is_first = one.stage.number == FIRST_STAGE
        return OpenSource(source, UndividedSplitter(splitter) if is_first and one.spec.takes_all else splitter, cursor)

    def _keep_open(self, key: StageKey, opened: OpenSource) -> None:
        if not opened.source.stays_open:
            opened.splitter.close()
            return
        for dropped in self._open_sources.put(key, opened):
            dropped.splitter.close()

    def _close(self, key: StageKey) -> None:
        opened = self._open_sources.pop(key)
        if opened is not None:
            opened.splitter.close()


def _total(one: JobStage, opened: OpenSource, draft: _Draft) -> RowCount | None:
    """Return how many rows a source has, as far as is known; None in a job over a stream that is not drained."""
    is_endless = one.job.spec.stream is not None and not one.job.first.planned
    return None if is_endless else opened.source.count(draft.cursor)


def _require_every_row(one: JobStage, draft: _Draft, total: RowCount | None) -> None:
    """Raise `InvalidSource` if the source is at its end and not all of its rows are in shards."""
    planned = one.stage.rows_planned + draft.rows
    if draft.at_end and total is not None and total.exact and planned != total.rows:
        raise InvalidSource(
            f"the source of job {one.job.id} ended after {planned:,} rows, {total.rows:,} were expected.",
            hint="Submit the job again, and leave its source alone until it has ended.",
        )


def _waits_for_own_shard(one: JobStage) -> bool:
    """Return whether the next shard of a stage is made once the last one is settled, and that is not yet so."""
    return one.stage.shards_live > 0 and (one.spec.keeps_state or one.spec.in_turn)


def _may_plan(one: JobStage) -> bool:
    return one.job.state.takes_shards and not (one.stage.planned or one.stage.joins)
