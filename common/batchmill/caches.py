"""Two caches: values by key within a limit (`Lru`), and one value that is read again after a time (`Fresh`)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock

K = TypeVar("K")
V = TypeVar("V")


def _one(_key: object, _value: object) -> int:
    return 1


class Lru(Generic[K, V]):
    """Values by key; when they weigh more than `limit`, those not used for longest are dropped. Thread-safe.

    limit: of the sum of all weights.
    weight: of an entry, the same whenever it is asked; by default 1, so that `limit` is a number of entries.

    A value that weighs more than `limit` by itself is not kept. What is dropped is not closed: another thread may be
    using it. An owner who is the only user closes what `put` returns.
    """

    def __init__(self, limit: int, weight: Callable[[K, V], int] = _one) -> None:
        self._limit = limit
        self._weigh = weight
        self._weight = 0
        self._values: OrderedDict[K, V] = OrderedDict()  # the one used last is at the end
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def weight(self) -> int:
        """The sum of all weights, at most `limit`."""
        return self._weight

    def get(self, key: K) -> V | None:
        """The value of a key, used now; None if it is not there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, used now; made if it is not there.

        `make` runs without the lock: threads that ask for one key at once may each make a value. All get the first
        that was kept.
        """
        found = self.get(key)
        if found is not None:
            return found
        made = make()
        with self._lock:
            if key in self._values:
                return self._values[key]
            self._keep(key, made)
        return made

    def put(self, key: K, value: V) -> list[V]:
        """Keep a value, used now, in place of an older one of its key. Returns the values that were dropped for it."""
        with self._lock:
            old = self._drop(key)
            return [*old, *self._keep(key, value)]

    def pop(self, key: K) -> V | None:
        """Remove a key; its value, or None if it was not there."""
        with self._lock:
            return next(iter(self._drop(key)), None)

    def keys(self) -> list[K]:
        """All keys, the one used last at the end. Uses none."""
        with self._lock:
            return list(self._values)

    def items(self) -> list[tuple[K, V]]:
        """All entries, the one used last at the end. Uses none."""
        with self._lock:
            return list(self._values.items())

    def _keep(self, key: K, value: V) -> list[V]:
        self._values[key] = value
        self._weight += self._weigh(key, value)
        dropped: list[V] = []
        while self._weight > self._limit:
            dropped += self._drop(next(iter(self._values)))
        return dropped

    def _drop(self, key: K) -> list[V]:
        if key not in self._values:
            return []
        value = self._values.pop(key)
        self._weight -= self._weigh(key, value)
        return [value]


class Fresh(Generic[V]):
    """A value that is read again once it is older than `max_age_s`. Thread-safe: one thread reads, the others wait.

    read: gives the value. What it raises goes to the thread that reads; the next one reads again.
    max_age_s: counted from the end of a read, so that a slow one serves everybody who waited for it.
    """

    def __init__(self, read: Callable[[], V], max_age_s: float, clock: Clock) -> None:
        self._read = read
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: tuple[V, float, int] | None = None  # with when it was read, and how often it was discarded then
        self._discards = 0

    def get(self, timeout_s: float = -1) -> V:
        """The value. Raises `TimeoutError` if another thread's read does not end in `timeout_s`; -1 waits for ever."""
        if not self._lock.acquire(timeout=timeout_s):
            raise TimeoutError
        try:
            if self._latest is not None:
                value, read_at, discards = self._latest
                if discards == self._discards and self._clock.monotonic() - read_at <= self._max_age_s:
                    return value
            discards = self._discards
            value = self._read()
            self._latest = value, self._clock.monotonic(), discards
            return value
        finally:
            self._lock.release()

    def latest(self) -> V | None:
        """The value that was read last, however old; None before the first. Never waits."""
        return None if self._latest is None else self._latest[0]

    def discard(self) -> None:
        """Read again next time, even if a read is under way now. Never waits."""
        self._discards += 1
