"""Looks out for the end of the machine, in a thread, and says when to drain."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from batchmill.processes.guarded_thread import GuardedThread
from batchmill_worker.supervisor.notices import NoticeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill_worker.supervisor.notices import NoticeSource

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""As AWS recommends. It costs at most a sixth of the shortest notice."""


class NoticeWatch:
    """Asks the metadata service every few seconds. `ends_at` and `should_drain` may be read in any thread.

    drain_s: how long before its end the machine has to begin to drain. The machine is paid until its end and computes
    until then: draining at once, after a notice of two minutes, would waste a minute and a half of it.
    on_notice: called once, in the thread, with the end in seconds since the epoch.
    """

    def __init__(self, source: NoticeSource, drain_s: float, on_notice: Callable[[float], None]) -> None:
        self._source = source
        self._drain_s = drain_s
        self._on_notice = on_notice
        self._stopping = threading.Event()
        self._thread = GuardedThread("notices", self._run)
        self._was_unknown = False
        self.ends_at: float | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started."""
        self._stopping.set()
        self._thread.join()

    def should_drain(self, now_s: float) -> bool:
        """Return whether it is time to drain, at that time since the epoch."""
        return self.ends_at is not None and now_s >= self.ends_at - self._drain_s

    def look(self, now_s: float) -> None:
        """Ask once. A metadata service that is away is reported once, and asked again."""
        try:
            found = self._source.ends_at(now_s)
        except NoticeUnknown as error:
            if not self._was_unknown:
                log.warning("whether this machine is to end cannot be asked; this is tried again: %s", error)
            self._was_unknown = True
            return
        self._was_unknown = False
        if found is not None:
            self.ends_at = found
            self._on_notice(found)

    def _run(self) -> None:
        while self.ends_at is None:
            self.look(time.time())
            if self._stopping.wait(INTERVAL_S):
                return
