"""Costs in the ledger: the sums over all jobs, which outlive them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.cost import Totals
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
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
