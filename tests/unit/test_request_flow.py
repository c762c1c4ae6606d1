"""Rows of several shards in one engine: they enter and leave one by one, and share the device with batches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.clock import SystemClock
from batchmill.errors import InvalidRows, OperatorFailed
from batchmill_worker.engine import flow, request_executor
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.engine.request_executor import RequestExecutor
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.runtime.hooks import HookGuard, HookLimits
from batchmill_worker.runtime.tenant_places import may_enter
from support.hand_clock import HandClock
from support.scripted_engine import ScriptedEngine, scripted
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.generation.base import Delta


def shard(*texts: str) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.string())})


def executor(device: DeviceLock | None = None) -> RequestExecutor:
    return RequestExecutor(device or DeviceLock(), SystemClock())


def outputs(result: ShardResult) -> list[Any]:
    found: list[Any] = result.table["out"].to_pylist()
    return found


def test_a_row_enters_as_soon_as_another_one_leaves_and_results_are_in_input_order() -> None:
    engine = ScriptedEngine(places=2)

    result = executor().run(scripted(engine), shard("99999", "1", "1", "1", "1", "1"))

    assert engine.ended == ["1", "1", "1", "1", "1", "99999"]
    assert engine.at_once == 2
    assert outputs(result) == ["99999", "1", "1", "1", "1", "1"]


def test_shards_share_the_engine_and_its_time() -> None:
    engine, meter = ScriptedEngine(places=4), DeviceTimeMeter()
    operator, runs = scripted(engine), executor()
    engine.free.clear()

    def run(*texts: str) -> tuple[ShardResult, int]:
        usage = meter.open()
        result = runs.run(operator, shard(*texts), ShardTask(usage=usage))
        return result, usage.close().useful

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(run, "5", "5"), threads.submit(run, "7", "7")]
        until(lambda: engine.at_once == 4, "the rows of both shards")
        engine.free.set()
        (one, one_us), (other, other_us) = (each.result() for each in both)

    assert (outputs(one), outputs(other)) == (["5", "5"], ["7", "7"])
    assert one_us > 0
    assert other_us > 0
    assert abs(one.busy_s * 1e6 - one_us) < 10


def test_what_has_ended_is_saved_while_other_rows_are_in_flight() -> None:
    engine, saved = ScriptedEngine(places=2), list[Any]()
    engine.free.clear()

    def save(result: ShardResult) -> None:
        saved.append(result)

    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(executor().run, scripted(engine), shard("1", "mute"), ShardTask(save=save))
        until(lambda: engine.at_once == 2, "both rows")
        engine.free.set()
        until(lambda: bool(saved), "the checkpoint")
        assert not run.done()
        until(lambda: len(engine.ended) == 1, "the first row")
        with pytest.raises(TimeoutError):
            run.result(0)
        for number in list(engine._left):
            engine._left[number] = engine._left[number][0], 1
        result = run.result()

    assert saved[0].settled.tolist() == [0]
    assert outputs(saved[0]) == ["1"]
    assert outputs(result) == ["1", "mute"]


def test_a_stopped_shard_ends_its_rows_in_flight_and_no_others() -> None:
    engine, stop = ScriptedEngine(places=3), threading.Event()
    operator, runs = scripted(engine), executor()
    with ThreadPoolExecutor(2) as threads:
        stopped = threads.submit(
            runs.run, operator, shard("1", "mute", "mute", "mute"), ShardTask(should_stop=stop.is_set)
        )
        until(lambda: len(engine.entered) == 4, "its rows")
        stop.set()
        result = stopped.result()
        assert (result.stopped, result.settled.tolist()) == (True, [0])
        assert len(engine.aborted) >= 1
        assert outputs(runs.run(operator, shard("2", "2"))) == ["2", "2"]


def test_an_engine_that_fails_ends_every_shard_in_it_and_serves_the_next() -> None:
    engine = ScriptedEngine(places=4)
    operator, runs = scripted(engine), executor()
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(runs.run, operator, shard("mute", "mute")) for _ in range(2)]
        until(lambda: len(engine.entered) == 4, "all rows")
        engine.error = OperatorFailed("the engine has died")
        for each in both:
            with pytest.raises(OperatorFailed, match="has died"):
                each.result()

    assert len(engine.aborted) == 4
    assert outputs(runs.run(operator, shard("1"))) == ["1"]


def test_a_row_without_progress_is_ended_while_others_get_tokens() -> None:
    clock = HandClock()

    class SteadyEngine(ScriptedEngine):
        """Each of its steps takes a second."""

        def step(self, wait_s: float) -> Sequence[Delta]:
            clock.now_s += 1
            return super().step(wait_s)

    operator = scripted(SteadyEngine(places=2))
    operator.guard = HookGuard(limits=HookLimits(batch_s=20))  # of its own: others share the one without a board

    result = RequestExecutor(DeviceLock(), clock).run(operator, shard("mute", *["9" for _ in range(50)]))

    (dead,) = result.dead
    assert (dead.index, dead.failure.error_type, dead.retryable) == (0, "Stalled", True)
    assert result.rows_done == 50


def test_batches_of_other_operators_get_the_device_between_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "MAX_TURN_S", 0.0)
    engine, device = ScriptedEngine(places=2), DeviceLock()
    engine.free.clear()
    with ThreadPoolExecutor(2) as threads:
        run = threads.submit(executor(device).run, scripted(engine), shard(*["3"] * 50))
        until(lambda: engine.at_once == 2, "the first rows")

        def batch() -> tuple[int, int]:
            with device:
                return engine.stats().in_flight, len(engine.ended)

        waiting = threads.submit(batch)
        until(lambda: device.waiting == 1, "a batch that waits")
        engine.free.set()

        in_flight, ended = waiting.result()
        assert in_flight == 0
        assert 0 < ended < 50
        assert outputs(run.result()) == ["3"] * 50
    assert len(engine.ended) == 50


def test_a_missing_column_to_carry_is_refused() -> None:
    with pytest.raises(InvalidRows, match="carries the column 'txet'"):
        executor().run(scripted(ScriptedEngine()), shard("1"), ShardTask(carry=["txet"]))


def test_urgent_rows_enter_before_those_of_shards_and_show_their_text_as_it_is_made() -> None:
    engine = ScriptedEngine(places=2)
    operator, runs, meter = scripted(engine), executor(), DeviceTimeMeter()
    engine.free.clear()
    texts: list[tuple[int, str]] = []
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(runs.run, operator, shard("3 a", "3 b", "1 c", "1 d", "1 e"))
        until(lambda: len(engine.entered) == 2, "the first rows of the shard")
        shared = runs.flow(operator)
        urgent = shared.enter(meter.open(), is_urgent=True, on_text=lambda row, text: texts.append((row, text)))
        shared.offer(urgent, 0, *operator.requests.render({"text": "3 urgent"}, (0,), 0))
        engine.free.set()
        until(lambda: bool(urgent.ended), "the end of the urgent row")
        shared.leave(urgent)
        assert outputs(job.result()) == ["3 a", "3 b", "1 c", "1 d", "1 e"]

    assert engine.entered[2] == "3 urgent"
    assert texts == [(0, "x"), (0, "x")]


def test_places_are_kept_free_for_urgent_rows_while_they_are_to_be_expected() -> None:
    def at_once(*, is_interactive: bool) -> int:
        engine = ScriptedEngine(places=8)
        runs = RequestExecutor(DeviceLock(), SystemClock(), is_interactive=lambda: is_interactive)
        texts = ["2"] * 30
        assert outputs(runs.run(scripted(engine), shard(*texts))) == texts
        return engine.at_once

    assert (at_once(is_interactive=False), at_once(is_interactive=True)) == (8, 8 - flow.RESERVED)


def test_an_interrupted_answer_is_kept_and_continues_in_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_executor, "MIN_SAVING_S", 0.0)
    engine, stop = ScriptedEngine(places=3), threading.Event()
    operator, runs = scripted(engine), executor()
    saved: list[ShardResult] = []
    with ThreadPoolExecutor(1) as threads:
        task = ShardTask(should_stop=stop.is_set, save=saved.append)
        run = threads.submit(runs.run, operator, shard("1000000", "mute", "1"), task)
        until(lambda: any(one.begun for one in saved), "a saved beginning")
        stop.set()
        stopped = run.result()

    assert stopped.settled.tolist() == [2]
    (begun,) = stopped.begun.values()
    early = next(one for one in saved if one.begun).begun[0]
    assert early.text == "x" * early.tokens
    assert early.tokens <= begun.tokens < 1000000
    assert begun.model == "none"

    left = shard(f"{begun.tokens + 1}", "2")
    before = len(engine.continued)
    result = runs.run(operator, left, ShardTask(begun={0: begun}))
    assert engine.continued[before:] == [begun.tokens, 0]
    assert result.rows_done == 2
    assert not result.begun


def test_urgent_rows_of_one_tenant_leave_places_for_those_of_another() -> None:
    engine = ScriptedEngine(places=4)
    engine.free.clear()
    operator, runs, meter = scripted(engine), executor(), DeviceTimeMeter()
    rows = runs.flow(operator)
    shards = {
        tenant: rows.enter(meter.open(), is_urgent=True, tenant=tenant) for tenant in ("greedy", "other", "third")
    }

    def offer(tenant: str, text: str) -> None:
        (generation,) = operator.requests.render({"text": text}, (0,), 0)
        rows.offer(shards[tenant], 0, generation)

    for number in range(10):
        offer("greedy", f"5 greedy {number}")
    until(lambda: len(engine.entered) == 3, "the rows that may enter")
    offer("other", "5 other")
    until(lambda: len(engine.entered) == 4, "the row of another tenant")
    offer("third", "5 third")
    assert engine.entered[-1] == "5 other"
    engine.free.set()
    until(lambda: len(engine.ended) == 12, "all rows")
    assert engine.entered.index("5 third") == 7  # with the next rows, not behind all of the first tenant
    assert engine.at_once == 4
    for shard_left in shards.values():
        rows.leave(shard_left)


@pytest.mark.parametrize(
    ("places", "expected"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (4, [3, 1, 0]), (8, [6, 1, 1]), (16, [12, 3, 1])]
)
def test_tenants_that_come_one_after_the_other_find_a_place(places: int, expected: list[int]) -> None:
    held = [0, 0, 0]
    for tenant in range(3):
        while sum(held) < places and may_enter(held[tenant], places - sum(held)):
            held[tenant] += 1
    assert held == expected
