"""A thread that its process needs never ends unnoticed."""

from __future__ import annotations

import logging

import pytest

from batchmill.processes.guarded_thread import EXIT_THREAD_FAILED, GuardedThread


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(0)])
def test_a_thread_that_fails_ends_its_process_with_a_message(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[int] = []

    def fail() -> None:
        raise error

    thread = GuardedThread("leadership", fail, ended.append)
    with caplog.at_level(logging.CRITICAL):
        thread.start()
        thread.join()
    assert ended == [EXIT_THREAD_FAILED]
    assert "'leadership' failed" in caplog.text


def test_a_thread_that_returns_ends_nothing() -> None:
    ended: list[int] = []
    thread = GuardedThread("events", lambda: None, ended.append)
    thread.join()
    thread.start()
    thread.join()
    assert ended == []
