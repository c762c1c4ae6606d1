"""Waits for rows of streams beside the planner's steps, and wakes it when there are some.

1. A stage whose stream has nothing to plan is left out of the planner's steps, and a thread waits at its source.
2. Rows that are held back for others (`Splitter`) are waited for until they have waited for long enough; meanwhile the
   stage stays among those that are planned, since a slot that gets free takes them at once.
3. A source that is away ends the wait; the next step of the planner meets the same error and says so.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError
from batchmill.sources.base import EndlessSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.ledger.formats.record import StageKey
    from batchmill.sources.base import Source, Splitter

MAX_WAITS = 64
"""Streams that are waited for at a time, each in a thread; others are looked at in each step."""
WAIT_S = 1.0
"""Then the planner looks by itself."""


class StreamWaits:
    """The streams that are waited for. Thread-safe. wake: called when one may have rows."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._idle: set[StageKey] = set()  # without rows
        self._held: set[StageKey] = set()  # with rows that are held back

    def keys(self) -> set[StageKey]:
        """Return the stages that have nothing to plan."""
        with self._lock:
            return set(self._idle)

    def begin(self, key: StageKey, source: Source, splitter: Splitter, cursor: str) -> None:
        """Wait for rows of a stage whose splitter has just given nothing; nothing is done for one without a stream."""
        if not isinstance(source, EndlessSource):
            return
        held_s = splitter.holds_for_s
        with self._lock:
            if key in self._idle or key in self._held or len(self._idle) + len(self._held) >= MAX_WAITS:
                return
            (self._idle if held_s is None else self._held).add(key)
        arguments = (key, source, cursor, held_s)
        waiter = threading.Thread(target=self._run, args=arguments, name=f"stream {key[0]}", daemon=True)
        try:
            waiter.start()
        except RuntimeError:  # no thread is to be had: the planner looks in each step
            self._forget(key)

    def drop(self, key: StageKey) -> None:
        """Forget a stage that is not planned any more."""
        with self._lock:
            self._idle.discard(key)

    def _run(self, key: StageKey, source: EndlessSource, cursor: str, held_s: float | None) -> None:
        is_news = True
        try:
            if held_s is not None:
                threading.Event().wait(held_s)
            else:
                is_news = source.wait(cursor, WAIT_S)
        except BatchmillError:
            is_news = True  # the planner meets the same error
        finally:
            self._forget(key)
        if is_news:
            self._wake()

    def _forget(self, key: StageKey) -> None:
        with self._lock:
            self._idle.discard(key)
            self._held.discard(key)
