"""How many slots of this supervisor should run, when they follow what their pool needs."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import psutil

from batchmill.errors import ServiceUnavailable
from batchmill.held_need import HeldNeed
from batchmill.processes.guarded_thread import GuardedThread
from batchmill_worker.models.model_memory import host_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.ledger import Ledger

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
MEMORY_MARGIN = 1.2
"""A further slot is started where this many times the memory of the largest one is free."""


class SlotScaler:
    """Reads from the ledger how many workers the pool needs. `wanted` may be read in any thread.

    ending: what the names of this supervisor's workers end with, and no other's.
    least, most: how many slots run at any time.
    While the ledger is away, the number stays as it is.
    """

    def __init__(self, ledger: Ledger, pool: str, ending: str, least: int, most: int) -> None:
        self._ledger = ledger
        self._pool = pool
        self._ending = ending
        self._least = least
        self._most = most
        self._held = HeldNeed()
        self._stopping = threading.Event()
        self._thread = GuardedThread("slot-scaler", self._run)
        self.wanted = least

    def start(self) -> None:
        """Start to read."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started."""
        self._stopping.set()
        self._thread.join()

    def read(self, now_s: float) -> None:
        """Read the pool's need once. now_s: of a clock that does not go back. Raises `ServiceUnavailable`."""
        scale = self._ledger.scale.decision(self._pool)
        need, hold_s = (0, 0.0) if scale is None else (scale.workers_wanted, scale.start_s)
        held = self._held.note(need, now_s, hold_s)
        workers = self._ledger.fleet.workers(self._ledger.now_ms())
        others = sum(one.pool == self._pool and not one.name.endswith(self._ending) for one in workers)
        self.wanted = min(max(held - others, self._least), self._most)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self.read(time.monotonic())
            except ServiceUnavailable as error:
                log.debug("what the pool needs is not known: %s", error)


def to_start(names: Sequence[str], running: Sequence[str], wanted: int) -> list[str]:
    """Return the slots to start, the first ones of all. Pure."""
    missing = [name for name in names if name not in running]
    return missing[: max(wanted - len(running), 0)]


def to_stop(names: Sequence[str], running: Sequence[str], wanted: int) -> list[str]:
    """Return the slots to stop, the last ones of all. Pure."""
    present = [name for name in reversed(names) if name in running]
    return present[: max(len(running) - wanted, 0)]


def has_memory_for_another(pids: Iterable[int]) -> bool:
    """Return whether the host's memory has room for another process like the largest of these."""
    sizes = [size for size in map(_resident_bytes, pids) if size is not None]
    if not sizes:
        return False  # nothing is measured yet
    free = min(psutil.virtual_memory().available, host_memory() - sum(sizes))
    return free >= MEMORY_MARGIN * max(sizes)


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return None
