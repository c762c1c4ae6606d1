"""Which tenants have used up the device time that they may be charged for in a period.

Nothing of such a tenant is queued until the next period begins. What is queued or running ends as usual and is charged,
so a tenant may go beyond its quota by what it has in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill.jobs.job import JobState
from batchmill.wording import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger

USED_TTL_S = 1.0


class TenantQuotas:
    """The quotas and what is used of them, at most `USED_TTL_S` old. Thread-safe.

    limits: seconds of devices by tenant; a tenant that is not named has no quota. period_s: periods are counted from
    the epoch by the ledger's time, so a day's begin at midnight, UTC.
    """

    def __init__(self, ledger: Ledger, limits: Mapping[str, int], period_s: int, clock: Clock) -> None:
        self._ledger = ledger
        self._limits = limits
        self._period_s = period_s
        self._latest = Fresh(self._read, USED_TTL_S, clock)

    def used_up(self) -> frozenset[str]:
        """Return the tenants without device time left in this period. Raises `ServiceUnavailable`."""
        if not self._limits:
            return frozenset()
        used, _ = self._latest.get()
        return frozenset(tenant for tenant, used_s in used.items() if used_s >= self._limits[tenant])

    def why_waits(self, record: JobRecord) -> str | None:
        """Say that a job waits for the next period; None if it does not. Raises `ServiceUnavailable`."""
        waits = record.state is JobState.RUNNING and any(
            one.shards_live > one.shards_in_flight for one in record.stages
        )
        if not waits or record.tenant not in self._limits:
            return None
        used, left_s = self._latest.get()
        used_s, limit_s = used[record.tenant], self._limits[record.tenant]
        if used_s < limit_s:
            return None
        return (
            f"its tenant {record.tenant!r} was charged {used_s:,.0f} s of devices in this period, and "
            f"BATCHMILL_TENANT_MAX_DEVICE_S allows {limit_s:,} s: it continues by itself in {duration(left_s)}."
        )

    def _read(self) -> tuple[dict[str, float], float]:
        """Read the seconds used by tenant, and how many are left of the period."""
        now_ms = self._ledger.now_ms()
        used = self._ledger.costs.charged_in_period(sorted(self._limits), self._period_s, now_ms)
        return used, self._period_s - now_ms / 1000 % self._period_s
