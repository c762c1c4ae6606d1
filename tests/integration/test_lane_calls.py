"""Calls of one coordinator over a real ledger; the test is the worker."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest

from batchmill.errors import TooManyRequests, WorkerLost
from batchmill.fleet import WorkerInfo
from batchmill.ledger.formats.lane_messages import LaneReply, ReplyKind
from batchmill.operators.contract import OperatorInfo
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.lane.lane import Lane, LaneLimits
from batchmill_coordinator.lane.target import LaneTarget
from batchmill_coordinator.metering.lane import LaneMetrics
from support.hand_clock import HandClock
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.lane_messages import LaneRequest

WORKER = "cpu0@here"
ECHO = OperatorInfo(name="echo", params_schema={})
TARGET = LaneTarget.of(ECHO, {}, "default")
ROWS = [{"id": 1}]


class Worker:
    """Takes requests and replies to them."""

    def __init__(self, ledger: Ledger) -> None:
        self._lane = ledger.lane
        self._aborts = ledger.lane.aborts(WORKER)
        assert next(self._aborts) is None  # it hears them from now on

    def take(self) -> LaneRequest:
        (request,) = self._lane.take(TARGET.pool, TARGET.model, 1, GRACE_S)
        return request

    def reply(self, request: LaneRequest, number: int, kind: ReplyKind, payload: bytes) -> None:
        reply = LaneReply(request.id, request.attempt, number, kind, payload)
        until(lambda: self._lane.reply([(request.coordinator, reply)]) == [True], "the coordinator hears replies")

    def aborted(self) -> str:
        return next(key for key in islice(self._aborts, round(GRACE_S)) if key)  # None once a second


@pytest.fixture
def worker(ledger: Ledger) -> Worker:
    about: dict[str, Any] = {"slot": 0, "pool": "default", "device": "cpu", "operators": ["echo"], "pid": 1}
    info = WorkerInfo(name=WORKER, started_at=time.time(), shards_at_once=1, models=[TARGET.model], **about)
    ledger.fleet.announce(info, [ECHO], 3600, changed=True)
    return Worker(ledger)


def run(
    ledger: Ledger,
    use: Callable[[Lane], Coroutine[Any, Any, None]],
    limit: int = 8,
    registry: prometheus_client.CollectorRegistry | None = None,
) -> None:
    async def main() -> None:
        metrics = LaneMetrics(registry or prometheus_client.CollectorRegistry())
        lane = Lane(ledger, FleetView(ledger, HandClock()), LaneLimits(8, limit, GRACE_S), metrics)
        lane.start(asyncio.get_running_loop())
        try:
            await use(lane)
        finally:
            await asyncio.to_thread(lane.stop)

    asyncio.run(main())


async def heard(worker: Worker) -> AsyncIterator[LaneRequest]:
    """Yield the attempts of a request, each noted as taken."""
    while True:
        request = await asyncio.to_thread(worker.take)
        worker.reply(request, 0, ReplyKind.TAKEN, WORKER.encode())
        yield request


@pytest.mark.usefixtures("worker")
def test_calls_that_begin_at_once_are_not_more_than_a_tenant_may_have(ledger: Ledger) -> None:
    async def use(lane: Lane) -> None:
        calls = [lane.call(TARGET, ROWS, "one") for _ in range(5)]
        found = await asyncio.gather(*(call.__aenter__() for call in calls), return_exceptions=True)
        assert sum(isinstance(one, TooManyRequests) for one in found) == 3
        for call, one in zip(calls, found, strict=True):
            if not isinstance(one, BaseException):
                await call.__aexit__(None, None, None)
        assert lane.allowance("one") == (2, 2)

    run(ledger, use, limit=2)


def test_requests_that_no_worker_has_taken_are_counted_by_model(ledger: Ledger, worker: Worker) -> None:
    registry = prometheus_client.CollectorRegistry()

    async def counts(expected: int) -> None:
        def is_counted() -> bool:
            return registry.get_sample_value("batchmill_lane_waiting", {"model": TARGET.title}) == expected

        await asyncio.to_thread(until, is_counted, "the count")

    async def use(lane: Lane) -> None:
        async with lane.call(TARGET, ROWS, "one"):
            async with lane.call(TARGET, ROWS, "one") as second:
                await counts(2)
                attempts = heard(worker)
                await anext(attempts)
                await counts(1)
                request = await anext(attempts)
                await counts(0)
                worker.reply(request, 1, ReplyKind.DONE, b"all")
                assert await second.results() == b"all"
            async with lane.call(TARGET, ROWS, "one"):
                await counts(1)
        await counts(0)

    run(ledger, use, registry=registry)


def test_a_gap_before_any_output_gives_the_call_to_another_attempt_and_aborts_the_first(
    ledger: Ledger, worker: Worker
) -> None:
    async def use(lane: Lane) -> None:
        async with lane.call(TARGET, ROWS, "one") as call:
            attempts = heard(worker)
            first = await anext(attempts)
            worker.reply(first, 2, ReplyKind.DONE, b"too early")
            assert await asyncio.to_thread(worker.aborted) == first.key
            second = await anext(attempts)
            worker.reply(second, 1, ReplyKind.DONE, b"all")
            assert await call.results() == b"all"
            assert (second.id, second.attempt) == (first.id, 1)

    run(ledger, use)


def test_a_gap_behind_some_output_is_an_error_and_ends_the_work(ledger: Ledger, worker: Worker) -> None:
    async def use(lane: Lane) -> None:
        async with lane.call(TARGET, ROWS, "one", streams=True) as call:
            request = await anext(heard(worker))
            worker.reply(request, 1, ReplyKind.TEXT, json.dumps([0, "some"]).encode())
            assert await call.next() == (0, "some")
            worker.reply(request, 3, ReplyKind.DONE, b"too early")
            with pytest.raises(WorkerLost, match="part of its answer was lost"):
                await call.next()
            assert await asyncio.to_thread(worker.aborted) == request.key

    run(ledger, use)
