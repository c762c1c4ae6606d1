"""Which coordinator leads: a lease in the ledger, with an epoch that every write of the leader includes.

1. Each coordinator asks for the lead three times per lease. The ledger gives it to one, under a new epoch.
2. The leader counts its lease from before it asked, by its own monotonic clock, so that it stops before the ledger
   gives the lead to another one.
3. A leader that was suspended for longer may still write; the ledger refuses its old epoch.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from batchmill.errors import ServiceUnavailable
from batchmill.processes.guarded_thread import GuardedThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock
    from batchmill.ledger import Ledger

log = logging.getLogger(__name__)


class Leadership:
    """Takes the lead when it is free, and keeps it from a thread of its own.

    name: of this process, unlike any other's, also after a restart.
    """

    def __init__(self, ledger: Ledger, name: str, ttl_s: float, clock: Clock, on_change: Callable[[], None]) -> None:
        self._ledger = ledger
        self._name = name
        self._ttl_s = ttl_s
        self._clock = clock
        self._on_change = on_change
        self._epoch = 0
        self._renewed_at = 0.0
        self._stopping = threading.Event()
        self._thread = GuardedThread("leadership", self._run)

    @property
    def epoch(self) -> int:
        """Return the epoch under which this process leads; 0 when it does not, or cannot be sure of it."""
        fresh = self._clock.monotonic() - self._renewed_at < self._ttl_s
        return self._epoch if fresh else 0

    def start(self) -> None:
        """Start the thread that asks for the lead."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking, and release the lead."""
        self._stopping.set()
        self._thread.join()
        if self._epoch:
            try:
                self._ledger.resign(self._name)
            except ServiceUnavailable as error:
                log.warning("the lead could not be released, it expires by itself: %s", error)

    def renew(self) -> None:
        """Ask for the lead once. Raises `ServiceUnavailable`."""
        asked_at = self._clock.monotonic()
        epoch = self._ledger.lead(self._name, self._ttl_s)
        changed = epoch != self._epoch
        self._epoch, self._renewed_at = epoch, asked_at
        if changed:
            log.info("this coordinator %s", f"leads (epoch {epoch})" if epoch else "is on standby")
            self._on_change()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.renew()
            except ServiceUnavailable as error:
                log.warning("leadership could not be renewed: %s", error)
            except Exception:  # one fault must not end the leadership; its lease says whether it still holds
                log.exception("leadership could not be renewed")
            self._stopping.wait(self._ttl_s / 3)
