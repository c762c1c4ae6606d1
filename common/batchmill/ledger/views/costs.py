"""Costs in the ledger: the sums over all jobs, which outlive them.

What a tenant was charged in a period is what its sum has grown by since the period began. The first who asks in a
period keeps the sums as they are then (the marks), so what is charged between the begin and that counts for no period.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.cost import PARTS, Totals
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store


class CostLedger:
    """What all jobs cost."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def totals(self) -> Totals:
        """The sums, in one round trip, however many jobs there were."""
        with redis_errors(), self._store.redis.pipeline(transaction=True) as pipe:
            for key in self._keys.costs():
                pipe.hgetall(key)
            found = pipe.execute()
        tenants, pools, days = ({name.decode(): amount.decode() for name, amount in fields.items()} for fields in found)
        return Totals.parse(tenants, pools, days)

    def charged_in_period(self, tenants: Sequence[str], period_s: int, now_ms: int) -> dict[str, float]:
        """Return the seconds of devices that each of these tenants was charged since the period of `now_ms` began.

        Periods have `period_s` seconds and are counted from the epoch. The sums are read before the marks, so that one
        who sets a mark meanwhile makes the answer 0, and never more than it is.
        """
        if not tenants:
            return {}
        marks, totals = self._keys.quota_marks(period_s, now_ms // (period_s * 1000)), self._keys.cost_tenants()
        client = self._store.redis
        with redis_errors():
            amounts = client.hmget(totals, [f"{tenant} {part}_us" for tenant in tenants for part in PARTS])
            sums = [
                sum(int(us or 0) for us in amounts[at : at + len(PARTS)]) for at in range(0, len(amounts), len(PARTS))
            ]
            found = client.hmget(marks, list(tenants))
            if None in found:
                with client.pipeline(transaction=True) as pipe:
                    for tenant, us in zip(tenants, sums, strict=True):
                        pipe.hincrby(totals, f"{tenant} attempts", 0)
                        pipe.hsetnx(marks, tenant, us)
                    pipe.pexpire(marks, 2 * period_s * 1000)
                    pipe.hmget(marks, list(tenants))
                    found = pipe.execute()[-1]
        return {tenant: max(us - int(mark), 0) / 1e6 for tenant, us, mark in zip(tenants, sums, found, strict=True)}
