"""The health of a supervisor: `/healthz` and `/readyz`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchmill.caches import Fresh
from batchmill.clock import Clock, SystemClock
from batchmill.errors import ServiceUnavailable
from batchmill_worker.supervisor.status_server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill.ledger import Ledger
    from batchmill.processes.children import ProcessSupervisor

FLEET_TTL_S = 0.5
STUCK_TIMEOUT_S = 60.0
"""A supervisor that has not polled its slots for this long hangs."""


class HeartbeatRegistry:
    """Which of the given workers are missing from the fleet, at most `FLEET_TTL_S` old. Thread-safe."""

    def __init__(self, ledger: Ledger, names: Callable[[], Sequence[str]], clock: Clock | None = None) -> None:
        self._ledger = ledger
        self._names = names
        self._latest = Fresh(self.read, FLEET_TTL_S, clock or SystemClock())

    def missing(self) -> list[str]:
        """List the workers without a live entry. Raises `ServiceUnavailable`."""
        return self._latest.get()

    def read(self) -> list[str]:
        """Read the fleet, and list the workers without a live entry. Raises `ServiceUnavailable`."""
        present = {worker.name for worker in self._ledger.fleet.workers(self._ledger.now_ms())}
        return [name for name in self._names() if name not in present]


class Health:
    """Answers `/healthz` and `/readyz`."""

    def __init__(self, processes: ProcessSupervisor, registry: HeartbeatRegistry, clock: Clock | None = None) -> None:
        self._processes = processes
        self._registry = registry
        self._clock = clock or SystemClock()
        self._polled_at = self._clock.monotonic()

    def mark_polled(self) -> None:
        """Record that the supervisor has just polled its slots."""
        self._polled_at = self._clock.monotonic()

    def healthz(self) -> Reply:
        """Answer 200, or 503 if the supervisor hangs or one of its slots is in a crash loop."""
        looping = [state.name for state in self._processes.states() if state.is_crash_looping]
        is_stuck = not self._processes.is_stopping and self._clock.monotonic() - self._polled_at > STUCK_TIMEOUT_S
        return _reply(not looping and not is_stuck, {"crash_looping": looping, "stuck": is_stuck})

    def readyz(self) -> Reply:
        """Answer 200 if every slot is in the fleet and none is being stopped, else 503."""
        draining = self._processes.is_stopping
        try:
            missing: list[str] | None = self._registry.missing()
        except ServiceUnavailable:
            missing = None
        is_ready = missing == [] and not draining
        return _reply(is_ready, {"ledger": missing is not None, "missing": missing or [], "draining": draining})


def _reply(is_well: bool, details: dict[str, Any]) -> Reply:
    return Reply(200 if is_well else 503, json.dumps({"ok": is_well, **details}).encode())
