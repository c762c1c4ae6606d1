"""What runs beside the device, and what never does. Events decide, not time."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchmill.operators.contract import OperatorDefinition
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.runtime.device import DeviceLock

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 30


def ready(operator: Any, batch_size: int | None = 1) -> ReadyOperator:
    definition = OperatorDefinition("probe", make=lambda: operator, params=BaseModel, batch_size=batch_size)
    return ReadyOperator(definition, operator)


def rows(count: int) -> pa.Table:
    return pa.table({"id": range(count)})


class Meeting:
    """Events by name; waiting for one that never comes fails the test."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, int], threading.Event] = {}
        self._lock = threading.Lock()

    def _event(self, name: str, batch: int) -> threading.Event:
        with self._lock:
            return self._events.setdefault((name, batch), threading.Event())

    def reach(self, name: str, batch: int) -> None:
        self._event(name, batch).set()

    def wait(self, name: str, batch: int) -> None:
        assert self._event(name, batch).wait(PATIENCE_S), f"{name} of batch {batch} did not run beside the device"


def test_the_next_batch_is_prepared_and_the_last_finished_while_one_is_on_the_device() -> None:
    last = 4
    meeting = Meeting()

    class Overlapping:
        def prepare(self, batch: list[dict[str, int]]) -> int:
            meeting.reach("prepare", batch[0]["id"])
            return batch[0]["id"]

        def infer(self, batch: int) -> int:
            if batch < last:
                meeting.wait("prepare", batch + 1)
            if batch > 0:
                meeting.wait("finish", batch - 1)
            return batch

        def finish(self, batch: int) -> list[dict[str, int]]:
            meeting.reach("finish", batch)
            return [{"out": batch}]

    result = BatchExecutor(DeviceLock()).run(ready(Overlapping()), rows(last + 1))
    assert result.table["out"].to_pylist() == [0, 1, 2, 3, 4]


def test_a_plain_function_runs_in_the_calling_thread_alone() -> None:
    threads = set()

    class Plain:
        def infer(self, batch: list[Any]) -> list[Any]:
            threads.add(threading.get_ident())
            return batch

    before = threading.active_count()
    BatchExecutor(DeviceLock()).run(ready(Plain()), rows(10))
    assert threads == {threading.get_ident()}
    assert threading.active_count() == before


def test_no_thread_is_left_behind_whether_a_shard_ends_well_or_not() -> None:
    class Fails:
        def prepare(self, batch: list[Any]) -> list[Any]:
            return batch

        def infer(self, batch: list[Any]) -> list[Any]:
            return batch if batch[0]["id"] < 3 else [{}, {}]

    before = threading.active_count()
    BatchExecutor(DeviceLock()).run(ready(Fails()), rows(3))
    with pytest.raises(Exception, match="returned 2 results for a batch of 1 row"):
        BatchExecutor(DeviceLock()).run(ready(Fails()), rows(10))
    assert threading.active_count() == before


def test_only_as_many_batches_are_ahead_of_the_device_as_one() -> None:
    ahead = []
    prepared, inferred = 0, 0

    class Counting:
        def prepare(self, batch: list[Any]) -> list[Any]:
            nonlocal prepared
            prepared += 1
            ahead.append(prepared - inferred)
            return batch

        def infer(self, batch: list[Any]) -> list[Any]:
            nonlocal inferred
            inferred += 1
            return batch

    BatchExecutor(DeviceLock()).run(ready(Counting()), rows(50))
    assert max(ahead) <= 2  # the one about to go to the device, and the next


def test_shards_of_one_process_use_the_device_one_at_a_time_and_each_hook_in_one_thread() -> None:
    inside = {"prepare": 0, "infer": 0, "finish": 0}
    crowded = []
    guard = threading.Lock()

    class Guarded:
        def _pass(self, name: str, batch: list[Any]) -> list[Any]:
            with guard:
                inside[name] += 1
                if inside[name] > 1:
                    crowded.append(name)
            with guard:
                inside[name] -= 1
            return batch

        def prepare(self, batch: list[Any]) -> list[Any]:
            return self._pass("prepare", batch)

        def infer(self, batch: list[Any]) -> list[Any]:
            return self._pass("infer", batch)

        def finish(self, batch: list[Any]) -> list[Any]:
            return self._pass("finish", batch)

    engine, operator = BatchExecutor(DeviceLock()), ready(Guarded(), 2)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: engine.run(operator, rows(100)), range(8)))
    assert crowded == []
    assert all(result.table["id"].to_pylist() == list(range(100)) for result in results)


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(PATIENCE_S * 1000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come to pass")


def test_the_device_is_handed_on_in_the_order_of_asking() -> None:
    device, order = DeviceLock(), []

    def use(number: int) -> None:
        with device:
            order.append(number)

    with ThreadPoolExecutor(20) as threads, device:
        for number in range(20):
            threads.submit(use, number)
            until(lambda: device.waiting == number + 1)  # noqa: B023  # called at once
    assert order == list(range(20))


def test_an_interrupt_while_waiting_gives_up_the_place_in_the_queue() -> None:
    device, asked = DeviceLock(), threading.get_ident()

    def interrupt(_number: int, _frame: object) -> None:
        raise InterruptedError

    def send() -> None:
        until(lambda: device.waiting == 1)
        signal.pthread_kill(asked, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with ThreadPoolExecutor(1) as threads, device:
            threads.submit(send)
            with pytest.raises(InterruptedError):
                device.__enter__()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert device.waiting == 0
    with device:
        assert device.waiting == 0


def test_a_device_call_that_raises_gives_the_device_back() -> None:
    device = DeviceLock()
    with pytest.raises(ValueError, match="boom"), device:
        raise ValueError("boom")
    with device:
        assert device.waiting == 0
