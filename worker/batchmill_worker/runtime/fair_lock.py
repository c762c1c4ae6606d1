"""A lock that is granted in the order of requests."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class FairLock:
    """A lock that is granted first come, first served. Use as a context manager.

    `threading.Lock` wakes any waiter, so a thread that acquires it again and again could starve the others.
    """

    def __init__(self) -> None:
        self._mutex = Lock()
        self._held = False
        self._gates: deque[Lock] = deque()  # one per waiting thread, released when it is that thread's turn

    @property
    def waiting(self) -> int:
        """The number of threads that wait for it."""
        return len(self._gates)

    def __enter__(self) -> Self:
        with self._mutex:
            if not self._held:
                self._held = True
                return self
            gate = Lock()
            gate.acquire()
            self._gates.append(gate)
        try:
            gate.acquire()  # released by the thread before this one, which leaves the lock held
        except BaseException:  # an interrupt while waiting: leave the queue
            self._leave(gate)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._gates:
            self._gates.popleft().release()
        else:
            self._held = False

    def _leave(self, gate: Lock) -> None:
        with self._mutex:
            if gate in self._gates:
                self._gates.remove(gate)
            else:  # it has been granted the lock already
                self._hand_on()
