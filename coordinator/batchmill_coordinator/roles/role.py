"""The background roles of a coordinator, each in a thread of its own: woken by events, and now and then anyway."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

from batchmill.errors import BatchmillError, ServiceUnavailable
from batchmill.telemetry.log_context import about

if TYPE_CHECKING:
    from batchmill_coordinator.roles.leadership import Leadership

log = logging.getLogger(__name__)


class Role(Protocol):
    """One background duty of the leader."""

    name: str
    wakes_on: frozenset[str]  # the kinds of ledger events that may give it work
    period_s: float  # how long it rests at most

    def step(self, epoch: int) -> None:
        """Do what there is to do, under this epoch. May run again at any time; every write is guarded."""


class RoleThread:
    """Runs a role while this coordinator leads."""

    def __init__(self, role: Role, leadership: Leadership) -> None:
        self._role = role
        self._leadership = leadership
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=role.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def notify(self, kind: str) -> None:
        """An event happened; the role looks if it is of a kind it waits for."""
        if kind in self._role.wakes_on:
            self._wake.set()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def stop(self) -> None:
        """End after the present step."""
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
        except Exception:  # a role outlives any one fault; the next step starts anew from the ledger
            log.exception("%s failed; it goes on in %.1f s", self._role.name, self._role.period_s)
