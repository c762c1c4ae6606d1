"""Calls to users' servers, each in a thread: one that hangs holds up no other, and not the role that makes them."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

K = TypeVar("K", bound="Hashable")
T = TypeVar("T")

MAX_CALLS = 64


class SourceCalls(Generic[K, T]):
    """Calls by key, one at a time for each key. For one thread.

    A call should end by itself after some time: while `max_calls` of them hang, no more are begun.
    """

    def __init__(self, max_calls: int = MAX_CALLS) -> None:
        self._max_calls = max_calls
        self._running: dict[K, Future[T]] = {}

    def begin(self, key: K, call: Callable[[], T]) -> bool:
        """Begin a call; False: that of this key runs, or too many do."""
        if key in self._running or len(self._running) >= self._max_calls:
            return False
        future: Future[T] = Future()
        try:
            threading.Thread(target=_run, args=(future, call), name="stream source", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            return False
        self._running[key] = future
        return True

    def ended(self, timeout_s: float) -> Iterator[tuple[K, Future[T]]]:
        """Wait until all calls have ended, at most for `timeout_s`; yield and forget those that have."""
        wait(self._running.values(), timeout_s)
        done = [(key, future) for key, future in self._running.items() if future.done()]
        for key, future in done:
            del self._running[key]
            yield key, future


def _run(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
        future.set_exception(error)
