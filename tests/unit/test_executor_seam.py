"""The seam between attempts and executors: another way of running rows fits beside batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from batchmill.clock import SystemClock
from batchmill.jobs.cost import Parts
from batchmill.operators.contract import OperatorDefinition, OperatorKind
from batchmill.operators.registration import FunctionOperator
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_worker.engine.assembly import CompletedBatch, assemble
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.batches import from_batch
from batchmill_worker.engine.executor import ALL_DEFAULTS, Executors, ShardTask
from batchmill_worker.engine.request_executor import RequestExecutor
from batchmill_worker.engine.shard_result import ShardResult
from batchmill_worker.engine.state_executor import StateExecutor
from batchmill_worker.engine.store_executor import StoreExecutor
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill_worker.engine.executor import Executor

ROW_S = 0.5
TEXTS = pa.table({"id": [0, 1, 2, 3], "text": ["a", "bb", "ccc", ""]})


def lengths(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"length": len(row["text"])} for row in rows]


def operator() -> ReadyOperator:
    made: Any = FunctionOperator(lengths, {})
    return ReadyOperator(OperatorDefinition("lengths", lambda: made, BaseModel), made)


class RowByRow:
    """Runs the rows of several shards at the same time, each row by itself, as an engine of requests does."""

    def __init__(self, clock: HandClock, shards: int) -> None:
        self._clock = clock
        self._all_inside = Barrier(shards, action=self._work)
        self._all_done = Barrier(shards)

    def _work(self) -> None:
        self._clock.now_s += ROW_S

    def run(self, operator: ReadyOperator, table: pa.Table, task: ShardTask = ALL_DEFAULTS) -> ShardResult:
        assert task.usage is not None
        done: list[CompletedBatch] = []
        for index in range(table.num_rows):
            if task.should_stop():
                break
            row = table.slice(index, 1).to_pylist()
            with task.usage.inferring(object(), 1.0, 1.0, weight=1 + len(row[0]["text"])):
                self._all_inside.wait(30)
                output = operator.infer(row)
                self._all_done.wait(30)
            done.append(CompletedBatch(np.array([index]), from_batch(operator.definition, output, 1)))
        joined, sources, made = assemble(operator.definition, table, task.carry or table.column_names, done)
        settled = np.arange(len(done))
        return ShardResult(joined, sources, settled, (), (), len(done) < table.num_rows, made)


def test_shards_that_share_an_engine_get_what_batches_give_and_share_its_time_by_weight() -> None:
    clock = HandClock()
    meter, executor = DeviceTimeMeter(clock), RowByRow(clock, shards=2)
    tables = [TEXTS, TEXTS.take([3, 3, 3, 3])]
    usages = [meter.open() for _ in tables]

    def run(place: int) -> ShardResult:
        return executor.run(operator(), tables[place], ShardTask(usage=usages[place]))

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(run, range(2)))
    for table, result in zip(tables, results, strict=True):
        assert result.table.equals(BatchExecutor(DeviceLock()).run(operator(), table).table)
    first, second = (usage.close() for usage in usages)
    weights = [2, 3, 4, 1]  # against 1 each
    assert abs(first.useful - sum(ROW_S * 1e6 * weight / (weight + 1) for weight in weights)) < 8
    assert first + second == Parts(useful=int(4 * ROW_S * 1e6))
    assert meter.unused_us == 0


def test_a_stopped_shard_returns_its_settled_rows_whatever_runs_it() -> None:
    clock = HandClock()
    for executor in (RowByRow(clock, shards=1), BatchExecutor(DeviceLock())):
        stopped = stop_after_one_row(executor, DeviceTimeMeter(clock))
        assert stopped.stopped
        assert stopped.settled.tolist() == [0]
        assert stopped.table.to_pylist() == [{"id": 0, "text": "a", "length": 1}]


def stop_after_one_row(executor: Executor, meter: DeviceTimeMeter) -> ShardResult:
    asked = iter([False])
    task = ShardTask(should_stop=lambda: next(asked, True), usage=meter.open())
    return executor.run(operator(), TEXTS, task)


def test_the_kind_of_an_operator_chooses_its_executor(tmp_path: Path) -> None:
    batches, stores = BatchExecutor(DeviceLock()), StoreExecutor(SystemClock())
    requests = RequestExecutor(DeviceLock(), SystemClock())
    states = StateExecutor(BlobStore.open(str(tmp_path), Locations(UNRESTRICTED)), SystemClock())
    executors, definition = Executors(batches, stores, requests, states), operator().definition
    assert definition.kind is OperatorKind.BATCH
    assert executors.of(definition) is batches
    assert executors.of(replace(definition, kind=OperatorKind.SHARD)) is stores
    assert executors.of(replace(definition, kind=OperatorKind.REQUEST)) is requests
    assert executors.of(replace(definition, kind=OperatorKind.STATE)) is states
