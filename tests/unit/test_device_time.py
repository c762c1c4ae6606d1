"""The meter: every microsecond of a process has one place."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from batchmill.errors import OperatorFailed
from batchmill.jobs.cost import Parts
from batchmill.operators.contract import OperatorDefinition
from batchmill.operators.registration import FunctionOperator
from batchmill.telemetry.metrics import new_registry
from batchmill_worker.batching.sizing import Batching
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.metering.slot_time import SlotTimeMetrics
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.runtime.device_time import AttemptUsage, DeviceTimeMeter, TimeUse, divide
from support.hand_clock import HandClock

LETTERS = pa.table({"size": [4, 4, 4, 1, 2, 2]})


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def meter(clock: HandClock) -> DeviceTimeMeter:
    return DeviceTimeMeter(clock)


def test_time_with_a_batch_on_the_device_is_useful_but_for_its_padding(
    meter: DeviceTimeMeter, clock: HandClock
) -> None:
    usage = meter.open()
    with usage.inferring("batch", units=8.0, true_units=6.0):
        clock.now_s += 4
        assert usage.used_us == 4_000_000
    assert usage.close() == Parts(useful=3_000_000, padding=1_000_000)


def test_time_of_a_batch_without_any_cost_is_useful(meter: DeviceTimeMeter, clock: HandClock) -> None:
    usage = meter.open()
    with usage.inferring("batch", units=0.0, true_units=0.0):
        clock.now_s += 1
    assert usage.close() == Parts(useful=1_000_000)


def test_a_batch_that_raises_and_one_whose_results_are_discarded_are_wasted(
    meter: DeviceTimeMeter, clock: HandClock
) -> None:
    usage = meter.open()

    def fail() -> None:
        with usage.inferring("bad", 8.0, 6.0):
            clock.now_s += 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for batch in ("kept", "not kept"):
        with usage.inferring(batch, 8.0, 6.0):
            clock.now_s += 4
    usage.mark_wasted("not kept")
    usage.mark_wasted("not kept")
    usage.mark_wasted("bad")
    assert usage.close() == Parts(useful=3_000_000, padding=1_000_000, retried=5_000_000)


def test_attempts_that_keep_the_device_waiting_share_that_time(meter: DeviceTimeMeter, clock: HandClock) -> None:
    first = meter.open()
    clock.now_s += 1
    second = meter.open()
    clock.now_s += 3
    assert second.close() == Parts(idle=1_500_000)
    clock.now_s += 1
    assert first.close() == Parts(idle=3_500_000)
    clock.now_s += 7
    assert first.close() == Parts(idle=3_500_000)
    assert meter.unused_us == 7_000_000


def test_a_model_that_is_set_up_beside_a_batch_costs_only_the_time_that_the_batch_leaves(
    meter: DeviceTimeMeter, clock: HandClock
) -> None:
    computes, loads = meter.open(), meter.open()
    with loads.loading():
        clock.now_s += 1
        with computes.inferring("batch", 1.0, 1.0):
            clock.now_s += 4
        clock.now_s += 2
    assert (computes.close(), loads.close()) == (Parts(useful=4_000_000), Parts(load=3_000_000))


def test_attempts_that_hold_the_device_together_share_it_by_weight(meter: DeviceTimeMeter, clock: HandClock) -> None:
    first, second = meter.open(), meter.open()
    with first.inferring("a", 1.0, 1.0, weight=300):
        clock.now_s += 1
        with second.inferring("b", 2.0, 1.0, weight=100) as hold:
            clock.now_s += 4
            assert (first.used_us, second.used_us) == (4_000_000, 1_000_000)
            hold.reweigh(900)
            clock.now_s += 4
    assert first.close() == Parts(useful=5_000_000)
    assert second.close() == Parts(useful=2_000_000, padding=2_000_000)


def test_the_uses_of_a_slots_time_add_up_to_the_time_that_passed(meter: DeviceTimeMeter, clock: HandClock) -> None:
    registry = new_registry()
    metrics = SlotTimeMetrics(registry, "p", "cpu0", meter)

    def counted() -> dict[str, float | None]:
        name = "batchmill_slot_seconds_total"
        return {use: registry.get_sample_value(name, {"slot": "cpu0", "pool": "p", "use": use}) for use in TimeUse}

    job = meter.open()
    with job.inferring("a", 1.0, 1.0):
        clock.now_s += 1
    clock.now_s += 2
    asked = meter.open(TimeUse.INTERACTIVE)
    with asked.loading():
        clock.now_s += 3
    with asked.inferring("b", 1.0, 1.0):
        clock.now_s += 4
        metrics.write()
        with job.inferring("c", 1.0, 1.0, weight=3):
            clock.now_s += 4
    clock.now_s += 2
    job.close()
    asked.close()
    assert counted() == {"batch": 3, "interactive": 7, "unused": 0}
    clock.now_s += 5
    metrics.write()
    assert counted() == {"batch": 7, "interactive": 9, "unused": 5}


def test_without_weights_attempts_that_hold_the_device_share_it_equally(
    meter: DeviceTimeMeter, clock: HandClock
) -> None:
    first, second, waiting = meter.open(), meter.open(), meter.open()
    with first.inferring("a", 1.0, 1.0), second.inferring("b", 1.0, 1.0), waiting.loading():
        clock.now_s += 3
    assert [usage.close() for usage in (first, second)] == [Parts(useful=1_500_000)] * 2
    assert waiting.close() == Parts()


def test_one_attempt_may_hold_the_device_twice_and_waste_one_of_them(meter: DeviceTimeMeter, clock: HandClock) -> None:
    usage = meter.open()

    def fail() -> None:
        with usage.inferring("bad", 1.0, 1.0):
            clock.now_s += 2
            raise ZeroDivisionError

    with usage.inferring("good", 1.0, 1.0), pytest.raises(ZeroDivisionError):
        fail()
    assert usage.close() == Parts(useful=1_000_000, retried=1_000_000)


def test_a_weight_below_one_is_refused(meter: DeviceTimeMeter) -> None:
    usage = meter.open()
    with pytest.raises(ValueError, match="at least 1, got 0"), usage.inferring("batch", 1.0, 1.0, weight=0):
        raise AssertionError
    with usage.inferring("batch", 1.0, 1.0) as hold, pytest.raises(ValueError, match="at least 1, got -1"):
        hold.reweigh(-1)


@given(st.integers(0, 10**12), st.lists(st.integers(1, 10**9), min_size=1, max_size=9))
def test_parts_add_up_to_what_was_divided_and_follow_the_weights(amount: int, weights: list[int]) -> None:
    parts = divide(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert 0 <= part - amount * weight // sum(weights) < len(weights)


class MeterSteps:
    """A process in which attempts begin, hold the device together, load models and end, as the steps say."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.meter = DeviceTimeMeter(self.clock)
        self.usages: list[AttemptUsage] = []
        self.closed: list[Parts] = []
        self.holds: list[tuple[AttemptUsage, object, Any, Any]] = []  # attempt, batch, context, hold
        self.loading: tuple[AttemptUsage, Any] | None = None

    def take(self, step: str, number: int) -> None:
        usage = self.usages[number % len(self.usages)] if self.usages else None
        if step == "open":
            self.usages.append(self.meter.open())
        elif step in ("end", "fail") and self.holds:
            self._end_hold(number % len(self.holds), fails=step == "fail")
        elif step == "reweigh" and self.holds:
            self.holds[number % len(self.holds)][3].reweigh(1 + number)
        elif usage is None:
            return
        elif step == "infer":
            batch = object()
            context = usage.inferring(batch, 7.0, 5.0, weight=1 + number % 1000)
            self.holds.append((usage, batch, context, context.__enter__()))
        elif step == "load":
            self._load(usage)
        elif step == "close" and all(one is not usage for one, *_ in self.holds) and self.loading is None:
            self.usages.remove(usage)
            self.closed.append(usage.close())

    def _load(self, usage: AttemptUsage) -> None:
        if self.loading is not None:
            self.loading[1].__exit__(None, None, None)
            self.loading = None
            return
        context = usage.loading()
        context.__enter__()
        self.loading = usage, context

    def _end_hold(self, place: int, *, fails: bool) -> None:
        usage, batch, context, _ = self.holds.pop(place)
        if fails:
            assert not context.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        else:
            context.__exit__(None, None, None)
            if place % 2:
                usage.mark_wasted(batch)

    def finish(self) -> list[Parts]:
        while self.holds:
            self._end_hold(0, fails=False)
        if self.loading is not None:
            self._load(self.loading[0])
        return self.closed + [usage.close() for usage in self.usages]


STEPS = ["open", "infer", "infer", "end", "fail", "reweigh", "load", "close"]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3_000_001)), max_size=60))
def test_whatever_happens_the_parts_add_up_to_the_time_that_passed(taken: list[tuple[str, int]]) -> None:
    process = MeterSteps()
    began_us = now_us_of(process)
    for step, number in taken:
        process.clock.now_s += number / 1_000_000
        process.take(step, number)
        so_far_us = sum(usage.used_us for usage in process.usages) + sum(parts.total for parts in process.closed)
        assert so_far_us + process.meter.unused_us == now_us_of(process) - began_us
    used = process.finish()
    assert sum(parts.total for parts in used) + process.meter.unused_us == now_us_of(process) - began_us
    assert all(part >= 0 for parts in used for part in astuple(parts))


def now_us_of(process: MeterSteps) -> int:
    return int(process.clock.monotonic() * 1_000_000)


def run(code: Any, clock: HandClock, usage: AttemptUsage, *, finish: Any = None) -> None:
    operator: Any = FunctionOperator(code, {})
    operator.cost = lambda row: float(row["size"])
    if finish:
        operator.finish = finish
    definition = OperatorDefinition("probe", lambda: operator, BaseModel, padded=True, batch_size=3)
    BatchExecutor(DeviceLock(), clock).run(
        ReadyOperator(definition, operator), LETTERS, ShardTask(usage=usage, batching=Batching())
    )


def test_the_executor_separates_padding_from_what_rows_need(meter: DeviceTimeMeter, clock: HandClock) -> None:
    def code(rows: list[dict[str, Any]]) -> list[Any]:
        clock.now_s += max(row["size"] for row in rows) * len(rows)
        return [{} for _ in rows]

    usage = meter.open()
    run(code, clock, usage)
    assert usage.close() == Parts(useful=17_000_000, padding=1_000_000)  # 4, 4, 4 and 2, 2, 1


def test_the_executor_counts_what_was_wasted(meter: DeviceTimeMeter, clock: HandClock) -> None:
    def code(rows: list[dict[str, Any]]) -> list[Any]:
        clock.now_s += len(rows)
        if any(row["size"] == 1 for row in rows):
            raise ValueError("too small")
        return [{} for _ in rows]

    usage = meter.open()
    run(code, clock, usage)
    parts = usage.close()
    assert parts.useful + parts.padding == 5_000_000  # the others: three at once, and two in what halves were left
    assert parts.retried == parts.total - 5_000_000 > 0


def test_a_batch_that_fails_when_it_is_finished_is_wasted(meter: DeviceTimeMeter, clock: HandClock) -> None:
    def code(rows: list[dict[str, Any]]) -> list[Any]:
        clock.now_s += len(rows)
        return rows

    def finish(outputs: list[Any]) -> list[Any]:
        raise ValueError(f"{len(outputs)} results do not fit")

    usage = meter.open()
    with pytest.raises(OperatorFailed):
        run(code, clock, usage, finish=finish)
    parts = usage.close()
    assert parts == Parts(retried=parts.total)
    assert parts.retried > 6_000_000
