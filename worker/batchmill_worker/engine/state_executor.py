"""The executor for operators that keep state: a complete shard goes in, with what the shard before it has left.

What the operator returns is complete: results, failed rows and the new state. The state is stored before the attempt
commits, under the attempt's name; see `batchmill.jobs.stateful.step`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.columns import rows_of
from batchmill.jobs.dead_letters import json_value, unfit_json_value
from batchmill.jobs.shard import is_of_shard_before, part_of
from batchmill.jobs.stateful.step import state_folder, state_name
from batchmill_worker.engine.executor import ALL_DEFAULTS
from batchmill_worker.engine.shard_result import BatchTiming, ShardResult
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.runtime.failures import DeadRow, Failure
from batchmill_worker.runtime.trace import NO_TRACE, Phase, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchmill.clock import Clock
    from batchmill.columns import UnfitValue
    from batchmill.jobs.stateful.step import StateStep
    from batchmill.storage.blobs import BlobStore
    from batchmill_worker.engine.executor import ShardTask
    from batchmill_worker.models.ready_operator import ReadyOperator


@dataclass(frozen=True, slots=True)
class StatefulRows:
    """What such an operator is given.

    Attributes:
        rows: All rows of the shard, in order.
        step: What the shard is in the sequence.
        before: The name of the state to begin with; empty: there is none.
        name: The name of the state that it leaves. An operator may keep a state in memory by its name.
        load: Reads the state to begin with.
        unfit: Values that rows lack, by place: they have another type than those of their column.
    """

    rows: pa.Table
    step: StateStep
    before: str
    name: str
    load: Callable[[], bytes]
    unfit: Sequence[UnfitValue] = ()

    def runs(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield the rows with all of their values, in runs with columns of one type each, and where a run begins."""
        if not self.unfit:
            yield 0, self.rows
            return
        unfit: dict[int, list[UnfitValue]] = {}
        for one in self.unfit:
            unfit.setdefault(one.place, []).append(one)

        def types(place: int) -> list[tuple[str, pa.DataType]]:
            return [(one.column, one.type) for one in unfit.get(place, ())]

        for columns, run in groupby(range(self.rows.num_rows), key=types):
            places = list(run)
            part = self.rows.slice(places[0], len(places))
            for at, (name, kind) in enumerate(columns):
                values = pa.array([unfit[place][at].value for place in places], kind)
                part = part.set_column(part.column_names.index(name), name, values)
            yield places[0], part


@dataclass(frozen=True, slots=True)
class StatefulResults:
    """What it returns.

    Attributes:
        results: In the order of the rows that they are made at. Their first column, `source_row`, numbers them over all
            shards.
        counts: How many there are of each row, and last, of the end of the shard.
        state: What the next shard begins with.
        errors: The type and the message of the error of each failed row, by its place.
    """

    results: pa.Table
    counts: list[int]
    state: bytes
    errors: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class StateExecutor:
    """Runs the shards of operators of the kind `STATE`; see `Executor`. They do not use the device."""

    def __init__(self, blobs: BlobStore, clock: Clock, trace: Recorder = NO_TRACE) -> None:
        self._blobs = blobs
        self._clock = clock
        self._trace = trace

    def run(self, operator: ReadyOperator, table: pa.Table, task: ShardTask = ALL_DEFAULTS) -> ShardResult:
        """Run all rows of a shard, unless `task.should_stop` is true before.

        Raises what the operator raises, `StorageError` if a state cannot be read or written, and `DamagedData` or
        `NotFound` for one that is damaged or missing.
        """
        nothing = np.empty(0, dtype=np.int64)
        if task.ref is None or task.step is None:
            raise RuntimeError(f"operator {operator.definition.name!r} runs behind another stage only")
        if task.should_stop():
            return ShardResult(table.slice(0, 0), nothing, nothing, (), (), stopped=True)
        ref, step = task.ref, task.step
        own = state_name(ref.job_id, ref.stage, part_of(ref.shard_id, ref.token))
        before = state_name(ref.job_id, ref.stage, step.before) if step.before else ""
        given = StatefulRows(
            table.slice(0, table.num_rows - 1),
            step,
            before,
            own,
            lambda: self._blobs.get(before).to_pybytes(),
            task.unfit,
        )
        started = self._clock.monotonic()
        usage = task.usage or DeviceTimeMeter().open()
        with (
            self._trace.span(Phase.STORE, shard=task.attempt_id, rows=table.num_rows),
            usage.inferring(given, table.num_rows, table.num_rows),
        ):
            found: StatefulResults = operator.infer(given)
            self._blobs.put(own, found.state)
            for name in self._blobs.list(f"{state_folder(ref.job_id)}/{ref.stage}") if step.obsolete else ():
                if is_of_shard_before(name, step.obsolete):
                    self._blobs.delete(name)
        operator.has_succeeded = True
        busy_s = self._clock.monotonic() - started
        every = np.arange(table.num_rows, dtype=np.int64)
        timing = BatchTiming(table.num_rows, table.num_rows, table.num_rows, busy_s)
        lacking: dict[int, dict[str, Any]] = {}
        for one in task.unfit:
            lacking.setdefault(one.place, {})[one.column] = unfit_json_value(one.value)
        dead = tuple(
            DeadRow(place, Failure(kind, message, ""), json_value(row) | lacking.get(place, {}))
            for place, (kind, message) in sorted(found.errors.items())
            for row in rows_of(table.slice(place, 1))
        )
        sources = np.repeat(every, found.counts)
        made = tuple(found.results.column_names)
        return ShardResult(found.results, sources, every, dead, (timing,), stopped=False, made=made)
