"""A lock that is handed on in the order of asking."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class FairLock:
    """A lock that is handed on first come, first served. Use as a context manager.

    `threading.Lock` wakes any waiter, so a thread that takes it again and again could starve the others.
    """

    def __init__(self) -> None:
        self._mutex = Lock()
        self._held = False
        self._gates: deque[Lock] = deque()  # one per waiting thread, opened when its turn has come

    @property
    def waiting(self) -> int:
        """How many threads wait for it."""
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
            gate.acquire()  # opened by the thread before us, which leaves the lock held for us
        except BaseException:  # an interrupt while waiting: give up the place in the queue
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
            else:  # its turn had come already
                self._hand_on()
