"""How many requests a service gets at a time, on a clock that stands still."""

from __future__ import annotations

from batchmill_worker.generation.engines.request_limiter import MAX_PAUSE_S, MAX_RETRY_AFTER_S, RequestLimiter
from support.hand_clock import HandClock


def succeed(limiter: RequestLimiter, times: int) -> None:
    for _ in range(times):
        limiter.succeeded()


def test_the_limit_grows_by_a_quarter_up_to_the_most_while_the_service_is_well() -> None:
    limiter = RequestLimiter(8, HandClock())

    limits = [limiter.limit]
    for _ in range(5):
        succeed(limiter, 8)
        limits.append(limiter.limit)

    assert limits == [4, 5, 7, 8, 8, 8]


def test_overload_shrinks_it_with_a_pause_that_doubles_and_then_it_grows_by_one() -> None:
    clock = HandClock()
    limiter = RequestLimiter(100, clock)
    succeed(limiter, 40)
    before = limiter.limit

    limiter.overloaded()
    assert (limiter.limit, limiter.wait_s) == (before, 0)  # one may be chance
    limiter.overloaded()
    shrunk = limiter.limit
    assert shrunk == int(before * 0.9)
    assert limiter.wait_s == 0.5
    for _ in range(20):
        limiter.overloaded()
    assert limiter.wait_s == MAX_PAUSE_S
    clock.now_s += MAX_PAUSE_S
    assert limiter.wait_s == 0
    low = limiter.limit
    succeed(limiter, 8)
    assert limiter.limit == low + 1


def test_what_the_service_asks_for_is_obeyed_up_to_a_bound() -> None:
    limiter = RequestLimiter(8, HandClock())

    limiter.overloaded(7.5)
    assert limiter.wait_s == 7.5
    limiter.overloaded(2.0)
    assert limiter.wait_s == 7.5
    limiter.overloaded(1e9)
    assert limiter.wait_s == MAX_RETRY_AFTER_S


def test_a_limit_of_one_stays() -> None:
    limiter = RequestLimiter(1, HandClock())

    for _ in range(10):
        limiter.overloaded()

    assert limiter.limit == 1
