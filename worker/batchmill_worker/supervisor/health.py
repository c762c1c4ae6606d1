"""How a supervisor stands, for whoever runs it: `/healthz` and `/readyz`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchmill.caches import Fresh
from batchmill.clock import Clock, SystemClock
from batchmill.errors import ServiceUnavailable
from batchmill_worker.supervisor.status_server import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger import Ledger
    from batchmill.processes.children import ChildKeeper

FRESH_S = 0.5
STUCK_S = 60.0
"""A supervisor that has not looked after its slots for so long hangs."""


class Presence:
    """Which of some workers are missing from the fleet, known to half a second. Thread-safe."""

    def __init__(self, ledger: Ledger, names: Sequence[str], clock: Clock | None = None) -> None:
        self._ledger = ledger
        self._names = names
        self._latest = Fresh(self.read, FRESH_S, clock or SystemClock())

    def missing(self) -> list[str]:
        """Those that are not there. Raises `ServiceUnavailable`."""
        return self._latest.get()

    def read(self) -> list[str]:
        """Those that are not there at this moment. Raises `ServiceUnavailable`."""
        present = {worker.name for worker in self._ledger.fleet.workers(self._ledger.now_ms())}
        return [name for name in self._names if name not in present]


class Health:
    """The answers to the two questions."""

    def __init__(self, keeper: ChildKeeper, presence: Presence, clock: Clock | None = None) -> None:
        self._keeper = keeper
        self._presence = presence
        self._clock = clock or SystemClock()
        self._looked_at = self._clock.monotonic()

    def mark(self) -> None:
        """Say that the supervisor has just looked after its slots."""
        self._looked_at = self._clock.monotonic()

    def healthz(self) -> Reply:
        """200 unless the supervisor hangs, or a slot of it dies again and again."""
        looping = [state.name for state in self._keeper.states() if state.is_crash_looping]
        is_stuck = not self._keeper.is_stopping and self._clock.monotonic() - self._looked_at > STUCK_S
        return _reply(not looping and not is_stuck, {"crash_looping": looping, "stuck": is_stuck})

    def readyz(self) -> Reply:
        """200 when every slot is in the fleet, and none is being stopped."""
        draining = self._keeper.is_stopping
        try:
            missing: list[str] | None = self._presence.missing()
        except ServiceUnavailable:
            missing = None
        is_ready = missing == [] and not draining
        return _reply(is_ready, {"ledger": missing is not None, "missing": missing or [], "draining": draining})


def _reply(is_well: bool, told: dict[str, Any]) -> Reply:
    return Reply(200 if is_well else 503, json.dumps({"ok": is_well, **told}).encode())
