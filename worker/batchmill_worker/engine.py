"""The engine: runs the rows of one shard through one operator.

1. The shard is cut into batches of the operator's size.
2. Each batch is prepared, inferred and finished. The device is used by one batch at a time; where the operator has
   a `prepare` or a `finish`, those of the neighbouring batches run beside it, in two threads of their own.
3. A batch that raises is run again as two halves, down to the row to blame, which becomes a `DeadRow`. Rows that
   all fail alike are not to blame: the operator is, and the shard stops with `OperatorFailed`.
4. Between batches the engine asks whether to stop. What is done by then is the beginning of the shard.
5. The columns of all batches are joined with the carried input columns, in input order, without the dead rows.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from batchmill.clock import Clock, SystemClock
from batchmill.dead_letters import json_value
from batchmill.errors import BatchmillError, InvalidOperator, InvalidRows, did_you_mean
from batchmill.operator import RowError
from batchmill_worker.batches import BatchResult, from_batch, join, to_batch
from batchmill_worker.device import DeviceLock, free_cached_memory, is_out_of_memory
from batchmill_worker.failures import Blame, DeadRow, Failure, rejected
from batchmill_worker.watchdog import DEFAULT_TIMEOUT_S, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from batchmill_worker.operator_cache import ReadyOperator

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """One device call that returned."""

    rows: int
    busy_s: float  # on the device, waiting for it not counted


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of a shard's rows, or of the first `rows_settled` of them if it was stopped."""

    table: pa.Table  # carried input columns and the operator's, in input order, dead rows left out
    dead: tuple[DeadRow, ...]  # by index
    timings: tuple[BatchTiming, ...]
    rows_settled: int  # rows done or dead: always the first ones of the shard
    stopped: bool  # whether rows were left because of `should_stop`

    @property
    def rows_done(self) -> int:
        """How many rows have a result."""
        return self.rows_settled - len(self.dead)

    @property
    def busy_s(self) -> float:
        """Seconds on the device."""
        return sum(timing.busy_s for timing in self.timings)


class Engine:
    """Runs shards through operators. One engine serves all shards that a process runs at once, in any thread."""

    def __init__(self, device: DeviceLock, clock: Clock | None = None, watchdog: Watchdog | None = None) -> None:
        self._device = device
        self._clock = clock or SystemClock()
        self._watchdog = watchdog or Watchdog(DEFAULT_TIMEOUT_S)

    def run(
        self,
        operator: ReadyOperator,
        table: pa.Table,
        carry: Sequence[str] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        proven: bool = False,
        whose: str = "",
    ) -> ShardResult:
        """The results of a shard's rows.

        carry: the input columns that results keep; None: all. A column that the operator makes replaces the
            carried one of that name, in its place; the others follow.
        should_stop: asked before each batch.
        whose: what to note while a batch of this shard is on the device.
        proven: whether earlier attempts have done rows of this shard; then the operator is not held to blame.

        Raises `OperatorFailed` when rows fail for no fault of theirs, `InvalidOperator` when what the operator
        returns does not fit the contract, `InvalidRows` when a carried column is missing, and any `BatchmillError`
        that the operator raises.
        """
        _check_carry(table, carry)
        run = _Run(operator, table, should_stop, self._device, self._clock, lambda: self._watchdog.watching(whose))
        if proven:
            run.trust_the_operator()
        run.drive()
        return run.result(table.column_names if carry is None else carry)


@dataclass(frozen=True, slots=True)
class _Span:
    """A batch: consecutive rows of the shard."""

    start: int
    rows: int

    def halves(self) -> tuple[_Span, _Span]:
        first = (self.rows + 1) // 2
        return _Span(self.start, first), _Span(self.start + first, self.rows - first)


class _Pending(Protocol[T_co]):
    """Work whose result is collected later."""

    def result(self) -> T_co: ...


class _Aside(Protocol):
    """Where work beside the device is done."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> _Pending[T]: ...


class _Deferred(Generic[T]):
    """Work that is done when its result is collected."""

    def __init__(self, work: Callable[..., T], *args: Any) -> None:
        self._work = work
        self._args = args

    def result(self) -> T:
        return self._work(*self._args)


class _Inline:
    """The stand-in for threads where nothing can overlap: work is done in the calling thread, when needed."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> _Pending[T]:
        return _Deferred(work, *args)


class _Run:
    """One shard on its way through one operator."""

    def __init__(
        self,
        operator: ReadyOperator,
        table: pa.Table,
        should_stop: Callable[[], bool],
        device: DeviceLock,
        clock: Clock,
        watching: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._watching = watching
        self._operator = operator
        self._definition = operator.definition
        self._table = table
        self._should_stop = should_stop
        self._device = device
        self._clock = clock
        self._blame = Blame(self._definition.name, proven=operator.proven)
        self._results: list[BatchResult] = []
        self._dead: list[DeadRow] = []
        self._timings: list[BatchTiming] = []
        self._settled = 0
        self._stopped = False

    def trust_the_operator(self) -> None:
        """Take rows that fail for the ones to blame."""
        self._blame.succeeded()

    def drive(self) -> None:
        """Take the batches through, one after the other."""
        with self._aside() as aside:
            self._drive(aside)
        if not self._stopped:
            self._blame.close()

    def result(self, carried: Sequence[str]) -> ShardResult:
        """What there is to tell in the end."""
        if self._blame.undecided and self._stopped:
            # Too little is known to give up on a row: whoever goes on begins anew.
            return ShardResult(self._assemble((), carried, 0, ()), (), tuple(self._timings), 0, stopped=True)
        table = self._assemble(self._results, carried, self._settled, self._dead)
        return ShardResult(table, tuple(self._dead), tuple(self._timings), self._settled, self._stopped)

    def _aside(self) -> Any:
        size = self._size()
        if self._operator.overlaps and size is not None and size < self._table.num_rows:
            return ThreadPoolExecutor(2, thread_name_prefix=f"{self._definition.name}-aside")
        return nullcontext(_Inline())

    def _drive(self, aside: _Aside) -> None:
        finishing: tuple[_Span, _Pending[BatchResult]] | None = None
        prepared: _Pending[Any] | None = None
        for span, following in itertools.pairwise([*self._spans(), None]):
            if span is None or self._must_stop():
                break
            ready = prepared or aside.submit(self._prepare, span)
            prepared = aside.submit(self._prepare, following) if following else None
            launched = self._launch(span, ready, aside)
            if finishing:
                self._land(*finishing)
            finishing = (span, launched)
        if finishing:
            self._land(*finishing)

    def _spans(self) -> Iterator[_Span]:
        rows = self._table.num_rows
        size = self._size() or max(rows, 1)
        for start in range(0, rows, size):
            yield _Span(start, min(size, rows - start))

    def _size(self) -> int | None:
        size = self._definition.batch_size
        return 32 if size == "auto" else size

    def _must_stop(self) -> bool:
        self._stopped = self._stopped or self._should_stop()
        return self._stopped

    def _prepare(self, span: _Span) -> Any:
        rows = self._table.slice(span.start, span.rows)
        return self._operator.prepare(to_batch(self._definition.batch_format, rows))

    def _launch(self, span: _Span, ready: _Pending[Any], aside: _Aside) -> _Pending[BatchResult]:
        """Run a prepared batch on the device and start to finish it; what it raises comes with the result."""
        settled: Future[BatchResult] = Future()
        try:
            outputs = self._infer(span, ready.result())
            if self._operator.finishes:
                return aside.submit(self._finish, span, outputs)
            settled.set_result(self._finish(span, outputs))  # at once: the next infer may fill the same memory again
        except Exception as error:  # noqa: BLE001  # raised again by result()
            settled.set_exception(error)
        return settled

    def _infer(self, span: _Span, batch: Any) -> Any:
        with self._device, self._watching():
            started = self._clock.monotonic()
            outputs = self._operator.infer(batch)
            self._timings.append(BatchTiming(span.rows, self._clock.monotonic() - started))
        return outputs

    def _finish(self, span: _Span, outputs: Any) -> BatchResult:
        return from_batch(self._definition, self._operator.finish(outputs), span.rows)

    def _land(self, span: _Span, finishing: _Pending[BatchResult]) -> None:
        """Keep a batch's results, or find out which of its rows is to blame."""
        if span.start != self._settled:
            return  # the engine stopped within the batch before, and settled rows are the first ones of a shard
        try:
            result = finishing.result()
        except BatchmillError:
            raise
        except Exception as error:  # noqa: BLE001  # user code: whatever it raises becomes a dead row
            failure = error
        else:
            self._keep(span, result)
            return
        if span.rows == 1:
            self._bury(span.start, failure)
        else:
            self._bisect(span, failure)

    def _bisect(self, span: _Span, error: Exception) -> None:
        if is_out_of_memory(error):
            error.__traceback__ = None  # its frames hold the batch
            free_cached_memory()
        inline = _Inline()
        for half in span.halves():
            if self._must_stop():
                return
            self._land(half, self._launch(half, inline.submit(self._prepare, half), inline))

    def _keep(self, span: _Span, result: BatchResult) -> None:
        for index, error in sorted(result.errors.items()):
            self._dead.append(rejected(span.start + index, error, self._row(span.start + index)))
        if result.rows:
            self._results.append(result)
            self._blame.succeeded()
            self._operator.proven = True
        self._settled += span.rows

    def _bury(self, index: int, error: Exception) -> None:
        row = self._row(index)
        if isinstance(error, RowError):
            self._dead.append(rejected(index, error, row))
        else:
            failure = Failure.of(error)
            self._blame.failed(failure)
            self._dead.append(DeadRow(index, failure, row, retryable=True))
        self._settled += 1

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = json_value(self._table.slice(index, 1).to_pylist()[0])
        return row

    def _assemble(
        self, results: Sequence[BatchResult], carried: Sequence[str], settled: int, dead: Sequence[DeadRow]
    ) -> pa.Table:
        made = join(self._definition, results)
        kept = self._table.select([name for name in carried if name not in made]).slice(0, settled)
        if dead:
            alive = np.ones(settled, dtype=bool)
            alive[[row.index for row in dead]] = False
            kept = kept.filter(pa.array(alive))
        names = [*carried, *(name for name in made if name not in carried)]
        if not names and settled > len(dead):
            raise InvalidOperator(
                f"operator {self._definition.name!r} made no column, and the job carries none.",
                hint="Results would be empty: carry a column, or return one.",
            )
        return pa.table({name: made[name] if name in made else kept.column(name) for name in names})


def _check_carry(table: pa.Table, carry: Sequence[str] | None) -> None:
    for name in carry or ():
        if name not in table.column_names:
            raise InvalidRows(
                f"the job carries the column {name!r}, which its rows do not have.",
                hint=did_you_mean(name, table.column_names),
                column=name,
            )
