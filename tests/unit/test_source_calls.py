"""Calls to users' servers: side by side, one for each key, and not waited for when they hang."""

from __future__ import annotations

import threading

import pytest

from batchmill_coordinator.roles.source_calls import SourceCalls
from support.waiting import GRACE_S, until


def test_a_call_that_hangs_delays_no_other_and_is_taken_when_it_ends() -> None:
    calls: SourceCalls[str, int] = SourceCalls()
    release = threading.Event()
    assert calls.begin("hangs", lambda: int(release.wait(GRACE_S)))
    assert not calls.begin("hangs", lambda: 2), "it runs"
    assert calls.begin("other", lambda: 3)
    answers: dict[str, int] = {}
    until(lambda: _taken(calls, answers) == {"other": 3}, "the answer of the other")
    release.set()
    until(lambda: _taken(calls, answers) == {"other": 3, "hangs": 1}, "the answer of the call that hung")
    assert calls.begin("hangs", lambda: 4)


def _taken(calls: SourceCalls[str, int], answers: dict[str, int]) -> dict[str, int]:
    answers |= {key: future.result() for key, future in calls.ended(0)}
    return answers


def test_what_a_call_raises_is_raised_with_its_answer() -> None:
    calls: SourceCalls[str, float] = SourceCalls()
    assert calls.begin("bad", lambda: 1 / 0)
    ((key, future),) = calls.ended(GRACE_S)
    assert key == "bad"
    with pytest.raises(ZeroDivisionError):
        future.result()


def test_no_more_calls_than_allowed_run_at_a_time() -> None:
    calls: SourceCalls[int, bool] = SourceCalls(max_calls=2)
    release = threading.Event()
    assert [calls.begin(number, lambda: release.wait(GRACE_S)) for number in range(3)] == [True, True, False]
    release.set()
    assert len(list(calls.ended(GRACE_S))) == 2
    assert calls.begin(3, lambda: True)
