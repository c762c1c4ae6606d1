"""The background roles of a coordinator, each in a thread of its own.

1. A role wakes when an event of a kind that it waits for arrives, or when its period is over, whichever is first.
2. It steps only while this coordinator leads. The epoch of the lead goes with every write, so that a role that was
   suspended in the middle of a step changes nothing once another coordinator leads.
3. A step that fails is logged; the next one starts anew from the ledger. Roles keep no state that the ledger lacks,
   only caches.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

from batchmill.errors import BatchmillError, ServiceUnavailable
from batchmill.processes.guarded_thread import GuardedThread
from batchmill.telemetry.log_context import about

if TYPE_CHECKING:
    from batchmill_coordinator.roles.leadership import Leadership

log = logging.getLogger(__name__)


class Role(Protocol):
    """One background duty of the leader."""

    name: str
    wakes_on: frozenset[str]  # the kinds of ledger events that may give it work
    period_s: float  # the longest time between two steps

    def step(self, epoch: int) -> None:
        """Do what is due, under this epoch. May run again at any time; every write is guarded by the epoch."""


class RoleThread:
    """Runs a role while this coordinator leads."""

    def __init__(self, role: Role, leadership: Leadership) -> None:
        self._role = role
        self._leadership = leadership
        self._wake = threading.Event()
        self._stopping = False
        self._thread = GuardedThread(role.name, self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self, kind: str) -> None:
        """Wake the role if it waits for events of this kind."""
        if kind in self._role.wakes_on:
            self._wake.set()

    def wake(self) -> None:
        """Wake the role now."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the present step."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._role.period_s)
            self._wake.clear()
            epoch = self._leadership.epoch
            if epoch and not self._stopping:
                self._step(epoch)

    def _step(self, epoch: int) -> None:
        try:
            with about(role=self._role.name):
                self._role.step(epoch)
        except ServiceUnavailable as error:
            log.warning("%s: %s", self._role.name, error)
        except BatchmillError as error:
            log.error("%s: %s", self._role.name, error)
        except Exception:  # one fault must not end a role; the next step starts anew
            log.exception("%s failed; it continues in %.1f s", self._role.name, self._role.period_s)
