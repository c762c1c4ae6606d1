"""The executor for operators that write to a store: a complete shard goes in, and a receipt comes out.

They do not use the device, so several shards are written side by side, and a batch of another shard may be computed
meanwhile. Rows that the store cannot take are failed rows; anything else that goes wrong ends the attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchmill.columns import rows_of
from batchmill.jobs.dead_letters import json_value
from batchmill_worker.engine.executor import ALL_DEFAULTS, ShardReceipt, ShardRows
from batchmill_worker.engine.shard_result import BatchTiming, ShardResult
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.runtime.failures import rejected
from batchmill_worker.runtime.trace import NO_TRACE, Phase, Recorder

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill_worker.engine.executor import ShardTask
    from batchmill_worker.models.ready_operator import ReadyOperator


class StoreExecutor:
    """Runs the shards of operators of the kind `SHARD`; see `Executor`."""

    def __init__(self, clock: Clock, trace: Recorder = NO_TRACE) -> None:
        self._clock = clock
        self._trace = trace

    def run(self, operator: ReadyOperator, table: pa.Table, task: ShardTask = ALL_DEFAULTS) -> ShardResult:
        """Run all rows of a shard, unless `task.should_stop` is true before. Raises what the operator raises."""
        nothing = np.empty(0, dtype=np.int64)
        if task.ref is None or task.lineage is None:
            raise RuntimeError(f"operator {operator.definition.name!r} runs behind another stage only")
        if not table.num_rows or task.should_stop():
            return ShardResult(pa.table({}), nothing, nothing, (), (), stopped=bool(table.num_rows))
        rows, started = ShardRows(table, task.lineage, task.ref), self._clock.monotonic()
        usage = task.usage or DeviceTimeMeter().open()
        with (
            self._trace.span(Phase.STORE, shard=task.attempt_id, rows=table.num_rows),
            usage.inferring(rows, table.num_rows, table.num_rows),
        ):
            receipt: ShardReceipt = operator.infer(rows)
        operator.has_succeeded = True
        busy_s = self._clock.monotonic() - started
        dead = tuple(
            rejected(place, error, json_value(rows_of(table.slice(place, 1))[0]))
            for place, error in sorted(receipt.errors.items())
        )
        every = np.arange(table.num_rows, dtype=np.int64)
        done = np.delete(every, list(receipt.errors))
        results = pa.table({name: [value] for name, value in receipt.columns.items()}) if done.size else pa.table({})
        timing = BatchTiming(table.num_rows, table.num_rows, table.num_rows, busy_s)
        return ShardResult(results, done[:1], every, dead, (timing,), stopped=False, made=tuple(receipt.columns))
