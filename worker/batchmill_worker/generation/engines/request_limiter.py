"""How many requests a service gets at a time: more while it is well, fewer when it is overloaded.

After eight answers the limit grows by a quarter; once it has been lowered, by one. If two of the last answers, and a
tenth of them, were signs of overload, it shrinks by a tenth and nothing is sent for a while. `Retry-After` is obeyed.
The rule and its numbers are those of AIBrix, an open-source gateway for language models.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.clock import Clock

FIRST_LIMIT = 4
GROWS_AFTER = 8
GROWTH = 0.25
SHRINKS_TO = 0.9
OVERLOADED_SHARE = 0.1
MIN_OVERLOADED = 2
PAUSE_S, MAX_PAUSE_S = 0.5, 10.0
MAX_RETRY_AFTER_S = 600.0


class RequestLimiter:
    """The limit of one service in one process. For one thread at a time. most: the limit never exceeds it."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._limit = min(FIRST_LIMIT, most)
        self._well = 0
        self._was_overloaded = False
        self._pauses = 0
        self._latest: deque[bool] = deque()
        self._not_before = -math.inf

    @property
    def limit(self) -> int:
        """The number of requests that may be sent at a time, whether or not it is time to send any."""
        return self._limit

    @property
    def wait_s(self) -> float:
        """How long nothing is to be sent, seconds."""
        return max(self._not_before - self._clock.monotonic(), 0.0)

    def succeeded(self) -> None:
        """Count an answer."""
        self._note(is_overloaded=False)
        self._well += 1
        self._pauses = 0
        if self._well >= GROWS_AFTER:
            self._well = 0
            step = 1 if self._was_overloaded else max(1, math.ceil(GROWTH * self._limit))
            self._limit = min(self._limit + step, self._most)

    def overloaded(self, retry_after_s: float | None = None) -> None:
        """Count a sign of overload. retry_after_s: what the service has asked for."""
        self._note(is_overloaded=True)
        self._well = 0
        bad = sum(self._latest)
        if bad >= MIN_OVERLOADED and bad >= OVERLOADED_SHARE * len(self._latest):
            self._was_overloaded = True
            self._limit = max(math.floor(SHRINKS_TO * self._limit), 1)
            self._latest.clear()
            self._hold(min(PAUSE_S * 2**self._pauses, MAX_PAUSE_S))
            self._pauses += 1
        if retry_after_s is not None:
            self._hold(min(retry_after_s, MAX_RETRY_AFTER_S))

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)

    def _note(self, *, is_overloaded: bool) -> None:
        self._latest.append(is_overloaded)
        while len(self._latest) > max(GROWS_AFTER, self._limit):
            self._latest.popleft()
