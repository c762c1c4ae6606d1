"""The device of a worker process: used by one batch at a time, in the order of asking."""

from __future__ import annotations

import sys
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class DeviceLock:
    """A lock that is handed on first come, first served. Use as a context manager around a device call.

    `threading.Lock` wakes any waiter, so a shard with quick batches could starve the others of its process.
    """

    def __init__(self) -> None:
        self._mutex = Lock()
        self._held = False
        self._gates: deque[Lock] = deque()  # one per waiting thread, opened when its turn has come

    @property
    def waiting(self) -> int:
        """How many threads wait for the device."""
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's or the device's memory did not suffice."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def free_cached_memory() -> None:
    """Give memory that torch keeps for later back to the device; nothing where torch is not in use."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
