"""The engine: runs the rows of one shard through one operator.

1. The rows are looked at a window at a time, and put into batches of the size that suits: rows that are padded to
   each other's length are sorted by cost first.
2. Each batch is prepared, inferred and finished. The device is used by one batch at a time; where the operator has
   a `prepare` or a `finish`, those of the neighbouring batches run beside it, in two threads of their own. A shard
   that has its next batch ready keeps the device, so that shards end one after the other: while one computes, the one
   before stores its results and the one after loads.
3. A batch that raises is run again as two halves, down to the row to blame, which becomes a `DeadRow`. Rows that
   all fail alike are not to blame: the operator is, and the shard stops with `OperatorFailed`.
4. A batch for which memory runs out is run again as two halves, and those to come are smaller. A single row that
   does not fit becomes a `DeadRow` of the type `too_large`.
5. Between batches the engine asks whether to stop. What is done by then is kept.
6. The results of all batches are joined with the carried input columns, in input order, without the dead rows.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchmill.clock import Clock, SystemClock
from batchmill.dead_letters import json_value
from batchmill.errors import BatchmillError, InvalidRows, did_you_mean
from batchmill.operators.contract import RowError
from batchmill_worker.batching.packing import Packed, Window
from batchmill_worker.batching.sizing import Batching
from batchmill_worker.engine.assembly import Landed, assemble
from batchmill_worker.engine.batches import BatchResult, from_batch
from batchmill_worker.engine.row_feed import RowFeed
from batchmill_worker.engine.shard_result import BatchTiming, ShardResult
from batchmill_worker.runtime.cost_meter import Account, Meter
from batchmill_worker.runtime.device import DeviceLock, DeviceMemory, Turn, free_cached_memory, is_out_of_memory
from batchmill_worker.runtime.failures import Blame, DeadRow, Failure, rejected, too_large
from batchmill_worker.runtime.side_executor import Inline, beside_the_device
from batchmill_worker.runtime.trace import NO_TRACE, Phase, Recorder
from batchmill_worker.runtime.watchdog import DEFAULT_TIMEOUT_S, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.models.operator_cache import ReadyOperator
    from batchmill_worker.runtime.side_executor import Aside, Pending

LONGEST_TURN_S = 10.0
"""So much work a shard does before it lets others have the device, even if its next batch is ready."""


class Engine:
    """Runs shards through operators. One engine serves all shards that a process runs at once, in any thread."""

    def __init__(
        self,
        device: DeviceLock,
        clock: Clock | None = None,
        watchdog: Watchdog | None = None,
        *,
        memory: DeviceMemory | None = None,
        trace: Recorder = NO_TRACE,
    ) -> None:
        self.device = device
        self.clock = clock or SystemClock()
        self.watchdog = watchdog or Watchdog(DEFAULT_TIMEOUT_S)
        self.memory = memory or DeviceMemory()
        self.trace = trace

    def run(
        self,
        operator: ReadyOperator,
        table: pa.Table,
        carry: Sequence[str] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        batching: Batching | None = None,
        proven: bool = False,
        whose: str = "",
        account: Account | None = None,
    ) -> ShardResult:
        """The results of a shard's rows.

        carry: the input columns that results keep; None: all. A column that the operator makes replaces the
            carried one of that name, in its place; the others follow.
        should_stop: asked before each batch.
        batching: how large batches are; by default as the operator says, learned from nothing.
        proven: whether earlier attempts have done rows of this shard; then the operator is not held to blame.
        whose: what to note while a batch of this shard is on the device.
        account: who is charged for the time there; None: nobody.

        Raises `OperatorFailed` when rows fail for no fault of theirs, `InvalidOperator` when what the operator
        returns does not fit the contract, `InvalidRows` when a carried column is missing, and any `BatchmillError`
        that the operator raises.
        """
        _check_carry(table, carry)
        run = _Run(self, operator, table, should_stop, batching or Batching(), whose, account or Meter().open())
        if proven:
            run.trust_the_operator()
        run.drive()
        return run.result(table.column_names if carry is None else carry)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch on its way to the device, or what its `prepare` raised."""

    packed: Packed
    batch: Any = None
    error: Exception | None = None


class _Run:
    """One shard on its way through one operator."""

    def __init__(
        self,
        engine: Engine,
        operator: ReadyOperator,
        table: pa.Table,
        should_stop: Callable[[], bool],
        batching: Batching,
        whose: str,
        account: Account,
    ) -> None:
        self._engine = engine
        self._account = account
        self._turn = Turn(engine.device)
        self._whose = whose
        self._operator = operator
        self._definition = operator.definition
        self._table = table
        self._should_stop = should_stop
        self._batching = batching
        self._size = batching.size(self._definition.batch_size)
        self._feed = RowFeed(operator, table)
        sorts = self._definition.padded and self._size is not None
        self._window = Window(table.num_rows, self._feed.costs, padded=sorts)
        self._ahead: Pending[_Ready | None] | None = None
        self._blame = Blame(self._definition.name, proven=operator.proven)
        self._landed: list[Landed] = []
        self._dead: list[DeadRow] = []
        self._settled: list[Rows] = [np.empty(0, dtype=np.int64)]
        self._timings: list[BatchTiming] = []
        self._stopped = False

    def trust_the_operator(self) -> None:
        """Take rows that fail for the ones to blame."""
        self._blame.succeeded()

    def drive(self) -> None:
        """Take the batches through, one after the other."""
        rows = self._table.num_rows
        is_one = rows <= 1 or self._size is None or (self._size != "auto" and self._size >= rows)
        try:
            with beside_the_device(self._definition.name, overlaps=self._operator.overlaps and not is_one) as aside:
                self._drive(aside)
        finally:
            self._turn.end()
        if not self._stopped:
            self._blame.close()

    def result(self, carried: Sequence[str]) -> ShardResult:
        """What there is to tell in the end."""
        if self._blame.undecided and self._stopped:
            # Too little is known to give up on a row: whoever goes on begins anew.
            self._landed, self._dead, self._settled = [], [], self._settled[:1]
        table, sources, made = assemble(self._definition, self._table, carried, self._landed)
        dead = tuple(sorted(self._dead, key=lambda row: row.index))
        settled = np.sort(np.concatenate(self._settled))
        return ShardResult(table, sources, settled, dead, tuple(self._timings), self._stopped, made)

    def _drive(self, aside: Aside) -> None:
        finishing: tuple[Packed, Pending[BatchResult]] | None = None
        self._ahead = aside.submit(self._next)
        while True:
            ready = self._ahead.result()
            if ready is None or self._must_stop():
                break
            self._ahead = aside.submit(self._next)
            launched = self._launch(ready, aside)
            if finishing:
                self._land(*finishing)
            finishing = (ready.packed, launched)
        self._turn.end()
        if finishing:
            self._land(*finishing)

    def _must_stop(self) -> bool:
        self._stopped = self._stopped or self._should_stop()
        return self._stopped

    def _next(self) -> _Ready | None:
        with self._engine.trace.span(Phase.PREPARE, shard=self._whose):
            packed = self._batching.take(self._window, self._definition.batch_size)
            return None if packed is None else self._prepare(packed)

    def _prepare(self, packed: Packed) -> _Ready:
        try:
            return _Ready(packed, self._operator.prepare(self._feed.batch(packed)))
        except Exception as error:  # noqa: BLE001  # raised again when the batch lands
            return _Ready(packed, error=error)

    def _launch(self, ready: _Ready, aside: Aside) -> Pending[BatchResult]:
        """Run a prepared batch on the device and start to finish it; what it raises comes with the result."""
        settled: Future[BatchResult] = Future()
        packed = ready.packed
        try:
            if ready.error is not None:
                raise ready.error
            outputs = self._infer(packed, ready.batch)
            if self._operator.finishes:
                return aside.submit(self._finish, packed, outputs)
            settled.set_result(self._finish(packed, outputs))  # at once: infer may fill the same memory again
        except Exception as error:  # noqa: BLE001  # raised again by result()
            settled.set_exception(error)
        return settled

    def _infer(self, packed: Packed, batch: Any) -> Any:
        engine, controller, rows = self._engine, self._batching.controller, packed.rows.size
        with engine.trace.span(Phase.DEVICE_WAIT, shard=self._whose):
            self._turn.begin()
        try:
            with (
                engine.watchdog.watching(self._whose, controller.expected_s(packed.units)),
                engine.trace.span(
                    Phase.INFER, shard=self._whose, rows=rows, units=packed.units, true_units=packed.true_units
                ),
                self._account.inferring(packed, packed.units, packed.true_units),
            ):
                engine.memory.begin()
                started = engine.clock.monotonic()
                outputs = self._operator.infer(batch)
                busy_s = engine.clock.monotonic() - started
                peak, limit = engine.memory.peak_bytes(), engine.memory.limit_bytes()
        finally:
            if not self._keeps_the_device():
                self._turn.end()
        self._turn.worked_s += busy_s
        self._timings.append(BatchTiming(rows, packed.units, packed.true_units, busy_s))
        controller.ran(packed.units, busy_s, rows=rows, peak_bytes=peak, limit_bytes=limit)
        return outputs

    def _keeps_the_device(self) -> bool:
        """Whether the next batch is ready to follow at once."""
        if self._ahead is None or not self._ahead.done() or self._turn.worked_s > LONGEST_TURN_S:
            return False
        following = self._ahead.result()
        return following is not None and following.error is None

    def _finish(self, packed: Packed, outputs: Any) -> BatchResult:
        with self._engine.trace.span(Phase.FINISH, shard=self._whose):
            return from_batch(self._definition, self._operator.finish(outputs), packed.rows.size)

    def _land(self, packed: Packed, finishing: Pending[BatchResult], *, is_last_try: bool = False) -> None:
        """Keep a batch's results, or find out which of its rows is to blame."""
        try:
            result = finishing.result()
        except BatchmillError:
            raise
        except Exception as error:  # noqa: BLE001  # user code: whatever it raises becomes a dead row
            failure = error
        else:
            self._keep(packed, result)
            return
        self._account.in_vain(packed)
        out_of_memory = is_out_of_memory(failure)
        if out_of_memory:
            self._batching.controller.did_not_fit(packed.units)
        if packed.rows.size == 1 and (is_last_try or not out_of_memory):
            self._bury(int(packed.rows[0]), failure)
            return
        if out_of_memory:
            failure.__traceback__ = None  # its frames hold the batch
            free_cached_memory()
        self._again(packed.halves(padded=self._definition.padded) if packed.rows.size > 1 else [packed])

    def _again(self, pieces: Sequence[Packed]) -> None:
        """Run rows of a batch that failed again, apart from the others."""
        inline = Inline()
        for piece in pieces:
            if self._must_stop():
                return
            self._land(piece, self._launch(self._prepare(piece), inline), is_last_try=True)

    def _keep(self, packed: Packed, result: BatchResult) -> None:
        for place, error in sorted(result.errors.items()):
            index = int(packed.rows[place])
            self._dead.append(rejected(index, error, self._row(index)))
        self._landed.append(Landed(packed.rows, result))
        self._settled.append(packed.rows)
        if len(result.errors) < packed.rows.size:
            self._blame.succeeded()
            self._operator.proven = True

    def _bury(self, index: int, error: Exception) -> None:
        row = self._row(index)
        if isinstance(error, RowError):
            self._dead.append(rejected(index, error, row))
        else:
            failure, out_of_memory = Failure.of(error), is_out_of_memory(error)
            self._blame.failed(failure, out_of_memory=out_of_memory)
            told = too_large(failure) if out_of_memory else failure
            self._dead.append(DeadRow(index, told, row, retryable=not out_of_memory))
        self._settled.append(np.array([index], dtype=np.int64))

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = json_value(self._table.slice(index, 1).to_pylist()[0])
        return row


def _check_carry(table: pa.Table, carry: Sequence[str] | None) -> None:
    for name in carry or ():
        if name not in table.column_names:
            raise InvalidRows(
                f"the job carries the column {name!r}, which its rows do not have.",
                hint=did_you_mean(name, table.column_names),
                column=name,
            )
