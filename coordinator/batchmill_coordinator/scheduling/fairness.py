"""Which job's shard is queued next. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from batchmill_coordinator.scheduling.tenant_shares import UNKNOWN_SHARD_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

AGEING_S = 60.0
"""A job that waits for this long without a shard being queued rises by one priority class."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stage of a job that has shards to queue. Times are seconds since the epoch."""

    job_id: str
    stage: int
    priority: int  # higher goes first
    created_at_s: float
    waiting_since_s: float  # when a shard of it was last queued, or when it was accepted or resumed
    in_flight: int  # its shards that are queued or running
    tenant: str = ""
    deadline_at_s: float | None = None
    shard_s: float = UNKNOWN_SHARD_S  # what a shard of it is expected to cost

    @property
    def key(self) -> tuple[str, int]:
        """The job's id and the stage's number."""
        return self.job_id, self.stage


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """What a tenant has in a pool. last_queued_s: when a shard of it was last queued, seconds since the epoch.

    turn_at: where its next turn begins in virtual time (`tenant_shares.VirtualTimes`).
    """

    in_flight: int = 0
    last_queued_s: float | None = None
    turn_at: float = 0.0

    def after_its_turn(self, now_s: float, turn_at: float = 0.0) -> TenantLoad:
        """Return the load with one more shard, queued now."""
        return TenantLoad(self.in_flight + 1, now_s, turn_at)


IDLE = TenantLoad()
NO_LOAD: Mapping[str, TenantLoad] = MappingProxyType({})


def next_job(candidates: list[Candidate], now_s: float, load: Mapping[str, TenantLoad] = NO_LOAD) -> Candidate:
    """Choose the candidate whose turn it is; `candidates` is not empty. load: of each tenant in this pool.

    First the tenant: that with the highest class, where waiting for its turn lifts a tenant like a job; then, where
    tenants have weights, the one whose turn begins first; then the one with the fewest shards in flight, so that
    however many jobs a tenant has, they delay no other's; then the one that waits longest. Of its jobs the highest
    class first, where waiting lifts a job by a class each `AGEING_S`; inside a class the earliest deadline, a job
    without one after all that have one; then the job with the fewest shards in flight, so that jobs get even shares;
    then the oldest.
    """
    tenant = _next_tenant(candidates, now_s, load)
    return min((one for one in candidates if one.tenant == tenant), key=_rank_at(now_s))


def latest_stages(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return of each job the candidate latest in its chain: so little waits between its stages."""
    latest: dict[str, Candidate] = {}
    for one in candidates:
        if one.job_id not in latest or latest[one.job_id].stage < one.stage:
            latest[one.job_id] = one
    return list(latest.values())


def _next_tenant(candidates: list[Candidate], now_s: float, load: Mapping[str, TenantLoad]) -> str:
    priorities: dict[str, int] = {}
    waiting_since: dict[str, float] = {}
    for one in candidates:
        priorities[one.tenant] = max(priorities.get(one.tenant, one.priority), one.priority)
        waiting_since[one.tenant] = min(waiting_since.get(one.tenant, one.waiting_since_s), one.waiting_since_s)

    def rank(tenant: str) -> tuple[float, float, int, float, str]:
        known = load.get(tenant, IDLE)
        since_s = waiting_since[tenant] if known.last_queued_s is None else known.last_queued_s
        lifted = priorities[tenant] + (now_s - since_s) // AGEING_S
        return -lifted, known.turn_at, known.in_flight, since_s, tenant

    return min(priorities, key=rank)


def _rank_at(now_s: float) -> Callable[[Candidate], tuple[float, float, int, float, tuple[str, int]]]:
    def rank(candidate: Candidate) -> tuple[float, float, int, float, tuple[str, int]]:
        lifted = candidate.priority + (now_s - candidate.waiting_since_s) // AGEING_S
        deadline = math.inf if candidate.deadline_at_s is None else candidate.deadline_at_s
        return (-lifted, deadline, candidate.in_flight, candidate.created_at_s, candidate.key)

    return rank
