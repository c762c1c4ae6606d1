"""Changes in the ledger, reported to those who wait for them: the roles, and requests that follow a job."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.ledger import SUBSCRIBED
from batchmill.processes.guarded_thread import GuardedThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchmill.ledger import Ledger

log = logging.getLogger(__name__)

RECONNECT_S = 0.5
UNSEEN = frozenset({"submitted", "planned", "freed"})
"""Events that change nothing a follower of the job would see."""


class EventHub:
    """Listens to the ledger from a thread of its own. An event may be missed: whoever waits also looks by itself."""

    def __init__(self, ledger: Ledger, on_event: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._on_event = on_event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._stopping = threading.Event()
        self._thread = GuardedThread("events", self._listen)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen; watchers are woken on `loop`."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End within a second."""
        self._stopping.set()
        self._thread.join()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something happens to a job. For use on the hub's loop."""
        event = asyncio.Event()
        self._watchers[job_id].add(event)
        try:
            yield event
        finally:
            self._watchers[job_id].discard(event)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except ServiceUnavailable as error:
                log.warning("events cannot be followed: %s", error)
            except Exception:  # one event must not end all the others
                log.exception("events cannot be followed")
            self._stopping.wait(RECONNECT_S)

    def _follow(self) -> None:
        """Report each event until the hub stops."""
        for event in self._ledger.events():
            if self._stopping.is_set():
                return
            if event is not None:
                self._report(*event)

    def _report(self, kind: str, job_id: str) -> None:
        if kind == SUBSCRIBED and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake_all)
        if kind not in UNSEEN and job_id in self._watchers and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, job_id)
        self._on_event(kind)  # the roles come second: each of their threads delays the loop

    def _wake_all(self) -> None:
        """Have everyone look: what happened before the subscription was not announced to this hub."""
        for job_id in self._watchers:
            self._wake(job_id)

    def _wake(self, job_id: str) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()
