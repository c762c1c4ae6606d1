"""Which tenants have used up the device time that they may be charged for in a period.

Nothing of such a tenant is queued until the next period begins. What is queued or running ends as usual and is charged,
so a tenant may go beyond its quota by what it has in flight.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchmill.caches import Fresh
from batchmill.jobs.cost import QuotaStatus
from batchmill.jobs.job import JobState
from batchmill.wording import duration

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
        return frozenset(tenant for tenant, use in self.uses().items() if use.is_used_up)

    def uses(self) -> Mapping[str, QuotaStatus]:
        """Return what the tenants with a quota have used of it. Raises `ServiceUnavailable`."""
        return self._latest.get()[0] if self._limits else {}

    def all(self) -> Collection[QuotaStatus]:
        """Return the same without the names as keys."""
        return self.uses().values()

    def why_waits(self, record: JobRecord) -> str | None:
        """Say that a job waits for the next period; None if it does not. Raises `ServiceUnavailable`."""
        use = self._held_by(record)
        if use is None:
            return None
        return (
            f"its tenant {record.tenant!r} was charged {use.used_s:,.0f} s of devices in this period, and "
            f"BATCHMILL_TENANT_MAX_DEVICE_S allows {use.limit_s:,} s: it continues by itself in "
            f"{duration(self._latest.get()[1])}."
        )

    def log_entry(self, record: JobRecord) -> str | None:
        """Say the same for the job's log, in words that do not change until the period ends."""
        use = self._held_by(record)
        if use is None:
            return None
        return (
            f"its tenant {record.tenant!r} has used up the {use.limit_s:,} s of devices that "
            f"BATCHMILL_TENANT_MAX_DEVICE_S allows in a period: it continues by itself at {use.ends_at:%F %H:%M} UTC."
        )

    def _held_by(self, record: JobRecord) -> QuotaStatus | None:
        """Return the quota for whose next period a job waits, if it does."""
        waits = record.state is JobState.RUNNING and any(
            one.shards_live > one.shards_in_flight for one in record.stages
        )
        use = self.uses().get(record.tenant) if waits else None
        return use if use is not None and use.is_used_up else None

    def _read(self) -> tuple[dict[str, QuotaStatus], float]:
        """Read what is used by tenant, and how many seconds are left of the period."""
        now_ms = self._ledger.now_ms()
        used = self._ledger.costs.charged_in_period(sorted(self._limits), self._period_s, now_ms)
        left_s = self._period_s - now_ms / 1000 % self._period_s
        ends_at = datetime.fromtimestamp(round(now_ms / 1000 + left_s), UTC)
        uses = {
            tenant: QuotaStatus(tenant=tenant, used_s=used_s, limit_s=self._limits[tenant], ends_at=ends_at)
            for tenant, used_s in used.items()
        }
        return uses, left_s
