"""The fleet as the roles and routes see it: read from the ledger, and kept for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill_coordinator.fleet.pools import PoolView, view_pools

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import Ledger
    from batchmill.operators.contract import OperatorInfo

FLEET_TTL_S = 0.5


class FleetView:
    """The fleet as it was at most `FLEET_TTL_S` ago; a worker that joins makes it read at once. Thread-safe."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._latest = Fresh(self._read, FLEET_TTL_S, clock)

    def pools(self) -> dict[str, PoolView]:
        """Return the pools by name. Raises `ServiceUnavailable`."""
        return self._latest.get()[0]

    def last_read(self) -> tuple[dict[str, PoolView], dict[str, OperatorInfo]] | None:
        """Return the pools and operators that were read last, which may be long ago; None before. Never waits."""
        return self._latest.latest()

    def operator(self, name: str) -> OperatorInfo | None:
        """Return an operator that some worker has announced, or None. Raises `ServiceUnavailable`."""
        return self._latest.get()[1].get(name)

    def operators(self) -> list[OperatorInfo]:
        """Return all operators that were announced, by name. Raises `ServiceUnavailable`."""
        return list(self._latest.get()[1].values())

    def forget(self) -> None:
        """Read the ledger at the next call."""
        self._latest.discard()

    def _read(self) -> tuple[dict[str, PoolView], dict[str, OperatorInfo]]:
        fleet = self._ledger.fleet
        pools = view_pools(fleet.workers(self._ledger.now_ms()))
        return pools, {operator.name: operator for operator in fleet.operators()}
