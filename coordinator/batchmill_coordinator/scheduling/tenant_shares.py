"""What share of a pool each tenant has: weights, and the most shards that may be in flight. Pure.

Among tenants of one priority class the next turn goes by start-time fair queueing (Goyal, Vin and Cheng, 1996): a turn
of a tenant begins at its own virtual time, or at the pool's if that is later, and moves its own on by what the shard
costs, divided by its weight. The pool's virtual time is where the last turn began, so a tenant that was away has saved
nothing up. Shares hold in any pool, also in one that takes a single shard at a time.

The times are the leader's and are not stored: with a new leader all tenants begin at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.caches import Lru

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TENANTS = 4096  # whose virtual times are kept
UNKNOWN_SHARD_S = 1.0
"""What a shard is taken to cost until one of its stage is done, in seconds of a worker."""


@dataclass(frozen=True, slots=True)
class TenantShares:
    """What is set. weights: 1 for a tenant without one; without any weight no virtual time is kept.

    most: by tenant, how many of its shards may be in flight in a pool; a tenant that is not named has no limit.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)

    def has_place(self, tenant: str, in_flight: int) -> bool:
        """Return whether a tenant may have one more shard in flight in a pool."""
        limit = self.most.get(tenant)
        return limit is None or in_flight < limit


class VirtualTimes:
    """Where the turns of a pool's tenants begin."""

    def __init__(self, shares: TenantShares) -> None:
        self._weights = shares.weights
        self._pool_at = 0.0
        self._at: Lru[str, float] = Lru(MAX_TENANTS)

    def start_of(self, tenant: str) -> float:
        """Where the next turn of a tenant begins; 0 for all while no tenant has a weight."""
        return max(self._at.get(tenant) or 0.0, self._pool_at)

    def take(self, tenant: str, shard_s: float) -> None:
        """A tenant had its turn. shard_s: what the shard is expected to cost."""
        if self._weights:
            self._pool_at = self.start_of(tenant)
            self._at.put(tenant, self._pool_at + shard_s / self._weights.get(tenant, 1.0))
