"""Redis stands still: the coordinator says that it is alive, and ends when it is asked to."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.attack import Answer, Mill

FROZEN_S = 6.0
STOP_S = 25.0


@pytest.fixture
def frozen(own_mill: Mill) -> Iterator[Mill]:
    """A service whose Redis is stopped by SIGSTOP, with a job in it and 60 clients that ask."""
    valkey = own_mill.cluster.valkey
    assert valkey is not None
    process = psutil.Process(valkey.pid)
    process.suspend()
    yield own_mill
    process.resume()


def ask(mill: Mill) -> Answer | None:
    try:
        return mill.call("GET", "/v1/jobs?limit=1", timeout=30)
    except OSError:
        return None


def test_health_is_answered_while_redis_is_frozen_and_everything_works_afterwards(frozen: Mill) -> None:
    ends_at = time.monotonic() + FROZEN_S
    with frozen.healthy(), ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(ask, frozen) for _ in range(60)]
        until(lambda: time.monotonic() > ends_at, "the end of the outage")
        assert frozen.cluster.valkey is not None
        psutil.Process(frozen.cluster.valkey.pid).resume()
        answers = [future.result() for future in waiting]
    assert {answer.status for answer in answers if answer} <= {200, 503}
    frozen.require_right_job()


def test_a_coordinator_ends_in_time_while_redis_is_frozen_and_requests_hang(frozen: Mill) -> None:
    coordinator = frozen.cluster.coordinators["a"]
    with ThreadPoolExecutor(60) as pool:
        for _ in range(60):
            pool.submit(ask, frozen)
        until(lambda: len(psutil.Process(coordinator.pid).net_connections()) > 30, "requests that hang")
        started = time.monotonic()
        coordinator.process.terminate()
        coordinator.process.wait(STOP_S)
        took = time.monotonic() - started
    assert took < STOP_S
