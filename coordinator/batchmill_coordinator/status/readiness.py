"""Whether jobs can be submitted and are worked on, for `/readyz`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from batchmill.caches import Fresh
from batchmill.errors import ServiceUnavailable

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import Ledger
    from batchmill_coordinator.status.notices import Notices

PROBE_TTL_S = 0.5


class Readiness(BaseModel):
    """Whether jobs can be submitted and are worked on. details: why not, and what else is wrong."""

    ready: bool
    ledger: bool
    leader: bool
    details: list[str] = []


class ReadinessProbe:
    """Asks the ledger, at most twice a second. Thread-safe."""

    def __init__(self, ledger: Ledger, notices: Notices, clock: Clock) -> None:
        self._ledger = ledger
        self._notices = notices
        self._latest = Fresh(self._read, PROBE_TTL_S, clock)

    def get(self) -> Readiness:
        """The readiness of the last half second."""
        return self._latest.get()

    def _read(self) -> Readiness:
        notices = list(self._notices.texts().values())
        try:
            leader = self._ledger.probe()
        except ServiceUnavailable as error:
            return Readiness(ready=False, ledger=False, leader=False, details=[str(error), *notices])
        missing = [] if leader else ["no coordinator leads; one takes over when the lease of the last one ends."]
        return Readiness(ready=leader, ledger=True, leader=leader, details=[*missing, *notices])
