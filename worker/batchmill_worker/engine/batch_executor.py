"""The executor for operators that take batches: runs the rows of one shard through one operator.

1. Rows are taken a window at a time, and packed into batches of the size that the controller chooses; rows that are
   padded to each other's length are sorted by cost first.
2. Each batch is prepared, inferred and finished. The device is used by one batch at a time; where the operator has
   a `prepare` or a `finish`, those of the neighbouring batches run beside it, in two threads of their own. A shard
   whose next batch is ready keeps the device, so that shards end one after the other: while one computes, the one
   before it stores its results and the one after it loads.
3. A batch that raises is run again as two halves, down to the failing row, which becomes a `DeadRow`. If all rows fail
   alike, the fault is the operator's, and the shard stops with `OperatorFailed`.
4. A batch for which memory runs out is run again as two halves, and later ones are smaller. A single row that
   does not fit becomes a `DeadRow` of the type `too_large`. Of an operator that takes all rows no half is run: results
   of a part would look like those of all. Its failure is that of the attempt.
5. Before each batch the executor asks whether to stop. Rows settled by then are in the result. It also stops when the
   results of this attempt are too many.
6. The results of all batches are joined with the carried input columns, in input order, without the failed rows.

Rejected: one queue of batches for all shards. Batches of different shards would alternate, so that all shards end at
about the same time and the device waits while all of them store; and a failing batch would be bisected between the
batches of others. Also rejected: dropping rows one by one from a failing batch. That takes n runs, where halves take
about 2·log n for a single failing row.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from batchmill.clock import Clock, SystemClock
from batchmill.columns import rows_of
from batchmill.errors import BatchmillError
from batchmill.jobs.dead_letters import json_value
from batchmill.operators.contract import RowError
from batchmill_worker.batching.packing import Packed, Window
from batchmill_worker.batching.sizing import Batching
from batchmill_worker.engine.assembly import CompletedBatch, assemble, check_carry
from batchmill_worker.engine.batches import BatchResult, from_batch
from batchmill_worker.engine.executor import ALL_DEFAULTS
from batchmill_worker.engine.result_room import ResultRoom
from batchmill_worker.engine.row_feed import RowFeed
from batchmill_worker.engine.shard_result import BatchTiming, ShardResult
from batchmill_worker.runtime.device import DeviceLock, DeviceMemory, Turn, free_cached_memory, is_out_of_memory
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.runtime.failures import (
    DeadRow,
    Failure,
    FailureAttribution,
    operator_failed,
    rejected,
    too_large,
)
from batchmill_worker.runtime.side_executor import InlineExecutor, side_executor
from batchmill_worker.runtime.slot_board import Hook
from batchmill_worker.runtime.trace import NO_TRACE, Phase, Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from batchmill.errors import OperatorFailed
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.engine.executor import ShardTask
    from batchmill_worker.models.ready_operator import ReadyOperator
    from batchmill_worker.runtime.side_executor import FutureLike, SideExecutor

MAX_TURN_S = 10.0
"""Device time that a shard may use in a row while other shards wait, even if its next batch is ready."""


class BatchExecutor:
    """Runs shards batch by batch; see `Executor`. The device is used by one batch at a time.

    is_urgent: whether its batches go before those of others, as the lane's do.
    """

    def __init__(
        self,
        device: DeviceLock,
        clock: Clock | None = None,
        *,
        memory: DeviceMemory | None = None,
        trace: Recorder = NO_TRACE,
        is_urgent: bool = False,
    ) -> None:
        self.device = device
        self.is_urgent = is_urgent
        self.clock = clock or SystemClock()
        self.memory = memory or DeviceMemory()
        self.trace = trace

    def run(self, operator: ReadyOperator, table: pa.Table, task: ShardTask = ALL_DEFAULTS) -> ShardResult:
        """Run the rows of a shard; the contract is `Executor.run`. `should_stop` is asked before each batch."""
        check_carry(table, task.carry)
        run = _Run(self, operator, table, task)
        run.drive()
        return run.result(table.column_names if task.carry is None else task.carry)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A prepared batch, or what its `prepare` raised."""

    packed: Packed
    batch: Any = None
    error: Exception | None = None


class _Run:
    """One shard and one operator: the state of `BatchExecutor.run`."""

    def __init__(self, executor: BatchExecutor, operator: ReadyOperator, table: pa.Table, task: ShardTask) -> None:
        self._executor = executor
        self._operator = operator
        self._definition = operator.definition
        self._table = table
        self._should_stop = task.should_stop
        self._attempt_id = task.attempt_id
        self._usage = task.usage or DeviceTimeMeter().open()
        self._turn = Turn(executor.device, is_urgent=executor.is_urgent)
        self._batching = task.batching or Batching()
        self._size = self._batching.size(self._definition.batch_size)
        self._feed = RowFeed(operator, table)
        sorts = self._definition.padded and self._size is not None
        self._window = Window(table.num_rows, self._feed.costs, padded=sorts)
        self._ahead: FutureLike[_Ready | None] | None = None
        self._attribution = FailureAttribution(self._definition.name, has_succeeded=operator.has_succeeded)
        if task.has_succeeded:
            self._attribution.record_success()
        self._completed: list[CompletedBatch] = []
        self._dead: list[DeadRow] = []
        self._settled: list[Rows] = [np.empty(0, dtype=np.int64)]
        self._timings: list[BatchTiming] = []
        self._stopped = False
        self._room = ResultRoom(table, task, self._definition)

    def drive(self) -> None:
        """Run all batches, until the last one or until it is time to stop."""
        rows = self._table.num_rows
        is_one = rows <= 1 or self._size is None or (self._size != "auto" and self._size >= rows)
        try:
            with side_executor(self._definition.name, overlaps=self._operator.overlaps and not is_one) as side:
                self._drive(side)
        finally:
            self._turn.end()
        if not self._stopped:
            self._attribution.close()

    def result(self, carried: Sequence[str]) -> ShardResult:
        """Return what became of the rows, with these input columns carried. To be called once, after `drive`."""
        if self._attribution.is_undecided and self._stopped:
            # Row or operator: too little is known to settle a row, so the next attempt starts from the beginning.
            self._completed, self._dead, self._settled = [], [], self._settled[:1]
        table, sources, made = assemble(self._definition, self._table, carried, self._completed)
        dead = tuple(sorted(self._dead, key=lambda row: row.index))
        settled = np.sort(np.concatenate(self._settled), kind="stable")  # 15 times as fast where they are in order
        is_full = self._stopped and self._room.is_full
        return ShardResult(table, sources, settled, dead, tuple(self._timings), self._stopped, made, is_full=is_full)

    def _drive(self, side: SideExecutor) -> None:
        finishing: tuple[Packed, FutureLike[BatchResult]] | None = None
        self._ahead = side.submit(self._next)
        while True:
            ready = self._ahead.result()
            if ready is None or self._must_stop():
                break
            self._ahead = side.submit(self._next)
            launched = self._launch(ready, side)
            if finishing:
                self._collect(*finishing)
            finishing = (ready.packed, launched)
        self._turn.end()
        if finishing:
            self._collect(*finishing)

    def _must_stop(self) -> bool:
        self._stopped = self._stopped or self._room.is_full or self._should_stop()
        return self._stopped

    def _next(self) -> _Ready | None:
        with self._executor.trace.span(Phase.PREPARE, shard=self._attempt_id):
            packed = self._batching.take(self._window, self._definition.batch_size)
            return None if packed is None else self._prepare(packed)

    def _prepare(self, packed: Packed) -> _Ready:
        try:
            return _Ready(packed, self._operator.prepare(self._feed.batch(packed)))
        except Exception as error:  # noqa: BLE001  # raised again when the batch is collected
            return _Ready(packed, error=error)

    def _launch(self, ready: _Ready, side: SideExecutor) -> FutureLike[BatchResult]:
        """Run a prepared batch on the device and start to finish it. What it raises is raised by `result()`."""
        settled: Future[BatchResult] = Future()
        packed = ready.packed
        try:
            if ready.error is not None:
                raise ready.error
            outputs = self._infer(packed, ready.batch)
            if self._operator.finishes:
                return side.submit(self._finish, packed, outputs)
            settled.set_result(self._finish(packed, outputs))  # at once: infer may reuse the same memory
        except Exception as error:  # noqa: BLE001  # raised again by result()
            settled.set_exception(error)
        return settled

    def _infer(self, packed: Packed, batch: Any) -> Any:
        executor, rows = self._executor, packed.rows.size
        with executor.trace.span(Phase.DEVICE_WAIT, shard=self._attempt_id):
            self._turn.begin()
        try:
            with (
                executor.trace.span(
                    Phase.INFER, shard=self._attempt_id, rows=rows, units=packed.units, true_units=packed.true_units
                ),
                self._usage.inferring(packed, packed.units, packed.true_units),
            ):
                executor.memory.begin()
                started = executor.clock.monotonic()
                outputs = self._operator.infer(batch)
                busy_s = executor.clock.monotonic() - started
                peak, limit = executor.memory.peak_bytes(), executor.memory.limit_bytes()
        finally:
            if not self._keeps_the_device():
                self._turn.end()
        self._turn.worked_s += busy_s
        self._timings.append(BatchTiming(rows, packed.units, packed.true_units, busy_s))
        self._batching.ran(packed, busy_s, peak_bytes=peak, limit_bytes=limit)
        return outputs

    def _keeps_the_device(self) -> bool:
        """Whether to hold the device for the next batch, because it is ready and nothing is urgent."""
        if self._executor.device.urgent_waiting:
            return False
        if self._ahead is None or not self._ahead.done() or self._turn.worked_s > MAX_TURN_S:
            return False
        following = self._ahead.result()
        return following is not None and following.error is None

    def _finish(self, packed: Packed, outputs: Any) -> BatchResult:
        with self._executor.trace.span(Phase.FINISH, shard=self._attempt_id):
            batch = self._operator.finish(outputs)
            # reading the results may run user code as well: a generator's, or that of an array type
            with self._operator.guard.calling(Hook.FINISH):
                return from_batch(self._definition, batch, packed.rows.size)

    def _collect(self, packed: Packed, finishing: FutureLike[BatchResult], *, is_last_try: bool = False) -> None:
        """Add a batch's results, or find out which of its rows fail, by running it again in halves."""
        try:
            result = finishing.result()
        except BatchmillError:
            raise
        except Exception as error:  # noqa: BLE001  # user code: whatever it raises becomes a failed row
            failure = error
        else:
            self._add(packed, result)
            return
        self._usage.mark_wasted(packed)
        if self._definition.takes_all and packed.rows.size > 1:
            raise self._failed_on_all(failure)
        out_of_memory = is_out_of_memory(failure)
        self._batching.failed(packed, out_of_memory=out_of_memory)
        if packed.rows.size == 1 and (is_last_try or not out_of_memory):
            self._mark_dead(int(packed.rows[0]), failure)
            return
        if out_of_memory:
            failure.__traceback__ = None  # its frames hold the batch
            free_cached_memory()
        self._again(packed.halves(padded=self._definition.padded) if packed.rows.size > 1 else [packed])

    def _failed_on_all(self, error: Exception) -> OperatorFailed:
        """The error of an operator whose results depend on all rows: those of a half would be wrong."""
        hint = "It needs a worker with more memory, or fewer rows." if is_out_of_memory(error) else ""
        return operator_failed(self._definition.name, "failed on all of its rows", Failure.of(error), hint=hint)

    def _again(self, pieces: Sequence[Packed]) -> None:
        """Run the rows of a failed batch again, separately from the others."""
        inline = InlineExecutor()
        for piece in pieces:
            if self._must_stop():
                return
            self._collect(piece, self._launch(self._prepare(piece), inline), is_last_try=True)

    def _add(self, packed: Packed, result: BatchResult) -> None:
        for place, error in sorted(result.errors.items()):
            index = int(packed.rows[place])
            dead = rejected(index, error, self._row(index))
            # the next attempt would compute what is left without the rows that are done
            self._dead.append(replace(dead, retryable=False) if self._definition.takes_all else dead)
        self._completed.append(CompletedBatch(packed.rows, result))
        self._room.take(result)
        self._settled.append(packed.rows)
        if len(result.errors) < packed.rows.size:
            self._attribution.record_success()
            self._operator.has_succeeded = True

    def _mark_dead(self, index: int, error: Exception) -> None:
        row = self._row(index)
        if isinstance(error, RowError):
            self._dead.append(rejected(index, error, row))
        else:
            failure, out_of_memory = Failure.of(error), is_out_of_memory(error)
            self._attribution.record_failure(failure, out_of_memory=out_of_memory)
            reported = too_large(failure) if out_of_memory else failure
            self._dead.append(DeadRow(index, reported, row, retryable=not out_of_memory))
        self._settled.append(np.array([index], dtype=np.int64))

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = json_value(rows_of(self._table.slice(index, 1))[0])
        return row
