"""The executor for operators whose rows enter and leave a running engine one by one; see `Flow`.

1. The thread of a shard renders its rows, some ahead of the engine, and offers them to the flow of its operator.
2. Rows come back in any order. What the operator makes of each answer is checked as a batch of one row.
3. Whenever rows have ended, what is settled so far is given to `ShardTask.save`: an answer takes seconds to compute, so
   none should be computed again because the process dies. With it goes the beginning of answers that another attempt
   can continue; for these alone it is saved now and then. Saving takes at most a tenth of the time.
4. A row that the operator rejects is a failed row. If all rows fail alike, the fault is the operator's.
5. `should_stop` is asked all the time; rows in flight are then ended, and those that have ended are in the result.
"""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from batchmill.columns import rows_of
from batchmill.columns.lineage import paths_of
from batchmill.errors import BatchmillError
from batchmill.jobs.dead_letters import json_value
from batchmill.operators.contract import RowError
from batchmill_worker.engine.assembly import CompletedBatch, assemble, check_carry
from batchmill_worker.engine.batches import from_batch
from batchmill_worker.engine.executor import ALL_DEFAULTS
from batchmill_worker.engine.flow import Flow
from batchmill_worker.engine.result_room import ResultRoom
from batchmill_worker.engine.shard_result import BatchTiming, ShardResult
from batchmill_worker.generation.answers import RowAnswers
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.runtime.failures import DeadRow, Failure, FailureAttribution, rejected
from batchmill_worker.runtime.slot_board import Hook
from batchmill_worker.runtime.trace import NO_TRACE, Phase, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from batchmill.clock import Clock
    from batchmill.columns.lineage import Path
    from batchmill_worker.engine.executor import ShardTask
    from batchmill_worker.engine.flow import FlowShard
    from batchmill_worker.generation.base import Answer, BegunAnswer, Generation
    from batchmill_worker.generation.request_operator import RequestOperator
    from batchmill_worker.models.ready_operator import ReadyOperator
    from batchmill_worker.runtime.device import DeviceLock

log = logging.getLogger(__name__)

POLL_S = 0.2
ROWS_AHEAD = 4
"""Rows of a shard that wait, for each place of the engine: enough to find those that share a prefix."""
SAVING_SHARE = 0.1
MIN_SAVED_TOKENS = 64
MIN_SAVING_S = 1.0
"""Answers in flight alone are saved when they have that many tokens more than the last time, and not more often."""


class RequestExecutor:
    """Runs shards row by row; see `Executor`. All shards of an operator share its engine.

    is_interactive: see `Flow`.
    """

    def __init__(
        self,
        device: DeviceLock,
        clock: Clock,
        trace: Recorder = NO_TRACE,
        is_interactive: Callable[[], bool] = lambda: False,
    ) -> None:
        self._device = device
        self.clock = clock
        self.trace = trace
        self._is_interactive = is_interactive
        self._lock = Lock()
        self._flows: WeakKeyDictionary[ReadyOperator, Flow] = WeakKeyDictionary()

    def run(self, operator: ReadyOperator, table: pa.Table, task: ShardTask = ALL_DEFAULTS) -> ShardResult:
        """Run the rows of a shard; the contract is `Executor.run`."""
        check_carry(table, task.carry)
        run = _Run(self, operator, table, task)
        with self.trace.span(Phase.GENERATE, shard=task.attempt_id):
            run.drive(self.flow(operator))
        return run.result(stopped=run.stopped)

    def flow(self, operator: ReadyOperator) -> Flow:
        """Return what all rows of an operator share."""
        with self._lock:
            flow = self._flows.get(operator)
            if flow is None:
                guard = operator.guard
                flow = Flow(
                    operator.requests.engine,
                    self._device,
                    guard.board,
                    self.clock,
                    guard.limits.batch_s,
                    self._is_interactive,
                )
                self._flows[operator] = flow
            return flow


class _Run:
    """One shard and one operator: the state of `RequestExecutor.run`."""

    def __init__(self, executor: RequestExecutor, operator: ReadyOperator, table: pa.Table, task: ShardTask) -> None:
        self._executor = executor
        self._operator = operator
        self._definition = operator.definition
        self._requests: RequestOperator = operator.requests
        self._table = table
        self._task = task
        self._carried: Sequence[str] = table.column_names if task.carry is None else task.carry
        self._paths = _paths(table, task)
        self._attribution = FailureAttribution(self._definition.name, has_succeeded=operator.has_succeeded)
        if task.has_succeeded:
            self._attribution.record_success()
        self._completed: list[CompletedBatch] = []
        self._dead: list[DeadRow] = []
        self._next = 0  # the first row that is not rendered
        self._busy_us = 0
        self._continued: list[int] = []  # how many tokens each answer had that continues an earlier attempt's
        self._answers = RowAnswers()
        self._flow: tuple[Flow, FlowShard] | None = None
        self._saved_rows = self._saved_tokens = 0
        self._may_save_at = self._saved_at = 0.0
        self.stopped = False
        self._room = ResultRoom(table, task, self._definition)

    def drive(self, flow: Flow) -> None:
        """Run all rows, until the last one has ended or until it is time to stop."""
        rows = self._table.num_rows
        ahead = ROWS_AHEAD * self._requests.engine.limits.places
        shard = flow.enter(self._task.usage or DeviceTimeMeter().open())
        self._flow = flow, shard
        try:
            while self._settled < rows:
                if self._room.is_full or self._task.should_stop():
                    self.stopped = True
                    break
                if self._next < rows and shard.waiting < ahead:
                    self._offer(flow, shard)
                else:
                    flow.wait(shard, POLL_S)
                while shard.ended:
                    self._collect(*shard.ended.popleft())
                self._save(shard)
        finally:
            flow.leave(shard)
            self._busy_us = shard.busy_us
        while shard.ended:
            self._collect(*shard.ended.popleft())
        if self._continued:
            rows, tokens = len(self._continued), sum(self._continued)
            log.info("shard %s continued answers: rows=%d tokens=%d", self._task.attempt_id, rows, tokens)
        if not self.stopped:
            self._attribution.close()

    def result(self, *, stopped: bool) -> ShardResult:
        """Return what has become of the rows so far. stopped: whether some are left."""
        if self._attribution.is_undecided and stopped:
            # Row or operator: too little is known to settle a row, so the next attempt starts from the beginning.
            completed, dead = list[CompletedBatch](), list[DeadRow]()
        else:
            completed, dead = self._completed, sorted(self._dead, key=lambda row: row.index)
        table, sources, made = assemble(self._definition, self._table, self._carried, completed)
        settled = np.sort(np.array([*sources.tolist(), *(row.index for row in dead)], dtype=np.int64))
        timing = BatchTiming(len(settled), len(settled), len(settled), self._busy_us / 1e6)
        is_full = stopped and self._room.is_full
        begun = self._flow[0].begun(self._flow[1]) if self._flow else {}
        return ShardResult(table, sources, settled, tuple(dead), (timing,), stopped, made, is_full=is_full, begun=begun)

    @property
    def _settled(self) -> int:
        return len(self._completed) + len(self._dead)

    def _offer(self, flow: Flow, shard: FlowShard) -> None:
        index, self._next = self._next, self._next + 1
        row = rows_of(self._table.slice(index, 1))[0]
        try:
            with (
                self._executor.trace.span(Phase.PREPARE, shard=self._task.attempt_id),
                self._operator.guard.calling(Hook.PREPARE),
            ):
                generations = self._requests.render(row, self._paths[index], self._task.failures.get(index, 0))
                begun = self._task.begun.get(index)
                if begun is not None and len(generations) == 1:
                    generations = (self._resumed(generations[0], begun),)
        except BatchmillError:
            raise
        except Exception as error:  # noqa: BLE001  # user data: whatever it causes becomes a failed row
            self._mark_dead(index, error)
        else:
            self._answers.ask(index, generations)
            for generation in generations:
                flow.offer(shard, index, generation)

    def _resumed(self, generation: Generation, begun: BegunAnswer) -> Generation:
        resumed = self._requests.resume(generation, begun)
        if resumed.begun_tokens:
            self._continued.append(len(resumed.begun_tokens))
        return resumed

    def _collect(self, index: int, generation: Generation, outcome: Answer | Exception) -> None:
        """Settle a row if its last answer has come."""
        if isinstance(outcome, BatchmillError):
            raise outcome
        try:
            answered = self._answers.add(index, generation, outcome)
            if answered is None:
                return
            with self._operator.guard.calling(Hook.FINISH):
                made = self._requests.result(*answered)
        except BatchmillError:
            raise
        except Exception as error:  # noqa: BLE001  # the row's, or the operator's: see `FailureAttribution`
            self._mark_dead(index, error)
            return
        result = from_batch(self._definition, [made], 1)
        self._completed.append(CompletedBatch(np.array([index], dtype=np.int64), result))
        self._room.take(result)
        self._attribution.record_success()
        self._operator.has_succeeded = True

    def _mark_dead(self, index: int, error: Exception) -> None:
        row: dict[str, Any] = json_value(rows_of(self._table.slice(index, 1))[0])
        if isinstance(error, RowError):
            self._dead.append(rejected(index, error, row))
            return
        failure = Failure.of(error)
        self._attribution.record_failure(failure)
        self._dead.append(DeadRow(index, failure, row, retryable=True))

    def _save(self, shard: FlowShard) -> None:
        """Save what is there, if there is more than the last time and saving has not just taken long."""
        save, began_at = self._task.save, self._executor.clock.monotonic()
        if save is None or began_at < self._may_save_at or self._settled == self._table.num_rows:
            return
        has_ended = self._settled > self._saved_rows and not self._attribution.is_undecided
        tokens = shard.begun_tokens
        if has_ended or (tokens - self._saved_tokens >= MIN_SAVED_TOKENS and began_at - self._saved_at > MIN_SAVING_S):
            save(self.result(stopped=True))
            now = self._executor.clock.monotonic()
            self._saved_rows, self._saved_tokens, self._saved_at = self._settled, tokens, now
            self._may_save_at = now + (now - began_at) / SAVING_SHARE


def _paths(table: pa.Table, task: ShardTask) -> list[Path]:
    if task.lineage is not None:
        return paths_of(task.lineage)
    rows = range(table.num_rows) if task.rows is None else task.rows.tolist()
    return [(row,) for row in rows]
