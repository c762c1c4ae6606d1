"""Which jobs wait because their tenant has as much in flight in a pool as it may, for their status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill_coordinator.scheduling.tenant_shares import TenantShares

LOADS_TTL_S = 1.0


class TenantLoads:
    """The shards in flight by pool and tenant, at most `LOADS_TTL_S` old. Thread-safe.

    They are read from the index of what is in flight, and only for the status of a job that has nothing in flight and
    whose tenant has a limit.
    """

    def __init__(self, ledger: Ledger, shares: TenantShares, clock: Clock) -> None:
        self._ledger = ledger
        self._shares = shares
        self._latest = Fresh(self._read, LOADS_TTL_S, clock)

    def why_waits(self, record: JobRecord) -> str | None:
        """Say which limit a job waits for; None if for none. Raises `ServiceUnavailable`."""
        limit = self._shares.most.get(record.tenant)
        waits = [one for one in record.stages if one.shards_live]
        idle = record.state is JobState.RUNNING and not any(one.shards_in_flight for one in waits)
        if limit is None or not waits or not idle:
            return None
        for stage in waits:
            in_flight = self._latest.get().get((stage.spec.pool, record.tenant), 0)
            if not self._shares.has_place(record.tenant, in_flight):
                return (
                    f"other jobs of its tenant {record.tenant!r} have {in_flight:,} shards queued or running in pool "
                    f"{stage.spec.pool!r}, and BATCHMILL_TENANT_MAX_SHARDS allows {limit:,}: it waits for one to end."
                )
        return None

    def _read(self) -> dict[tuple[str, str], int]:
        loads: dict[tuple[str, str], int] = {}
        keys = [key for those in self._ledger.index.in_flight().values() for key in those]
        for one in self._ledger.jobs.read_stages(keys) if keys else ():
            place = one.spec.pool, one.job.tenant
            loads[place] = loads.get(place, 0) + one.stage.shards_in_flight
        return loads
