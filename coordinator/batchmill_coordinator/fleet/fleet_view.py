"""The fleet as the roles and routes see it: read from the ledger, and kept for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill_coordinator.fleet.pools import PoolView, view_pools

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import Ledger
    from batchmill.operators.contract import OperatorInfo

FRESH_S = 0.5


class FleetView:
    """What the fleet was at most half a second ago; a worker that comes makes it look again at once. Thread-safe."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._latest = Fresh(self._read, FRESH_S, clock)

    def pools(self) -> dict[str, PoolView]:
        """The pools by name. Raises `ServiceUnavailable`."""
        return self._latest.get()[0]

    def operator(self, name: str) -> OperatorInfo | None:
        """An operator that some worker has announced, or None. Raises `ServiceUnavailable`."""
        return self._latest.get()[1].get(name)

    def operators(self) -> list[OperatorInfo]:
        """All operators that were announced, by name. Raises `ServiceUnavailable`."""
        return list(self._latest.get()[1].values())

    def forget(self) -> None:
        """Look again next time."""
        self._latest.discard()

    def _read(self) -> tuple[dict[str, PoolView], dict[str, OperatorInfo]]:
        fleet = self._ledger.fleet
        pools = view_pools(fleet.workers(self._ledger.now_ms()))
        return pools, {operator.name: operator for operator in fleet.operators()}
