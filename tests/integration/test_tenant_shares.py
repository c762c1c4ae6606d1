"""Weights and limits of tenants: what the dispatcher queues, over a real ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from batchmill.jobs.completion import Completion
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.dispatcher import Dispatcher
from batchmill_coordinator.scheduling.tenant_loads import LOADS_TTL_S, TenantLoads
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from support.hand_clock import HandClock
from support.ledger_steps import claim, plan, submit
from support.planning import announce_worker

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger

SHARDS = 24


@dataclass
class Pool:
    """A pool with workers that take every message at once; `tenants` have a job each, of `SHARDS` shards."""

    ledger: Ledger
    epoch: int
    shares: TenantShares
    slots: int
    tenants: tuple[str, ...]
    running: list[ShardRef] = field(default_factory=list)
    clock: HandClock = field(default_factory=HandClock)

    def __post_init__(self) -> None:
        announce_worker(self.ledger, shards_at_once=self.slots)
        fleet, metrics = FleetView(self.ledger, HandClock()), RoleMetrics(new_registry())
        self.dispatcher = Dispatcher(self.ledger, fleet, cast("Any", self), metrics, self.shares)
        self.loads = TenantLoads(self.ledger, self.shares, self.clock)
        for tenant in self.tenants:
            submit(self.ledger, f"job-{tenant}", tenant=tenant)
            plan(self.ledger, self.epoch, [1] * SHARDS, job_id=f"job-{tenant}")

    def publish(self, _operator: str, _queue: str, ref: ShardRef, *_: object) -> None:
        """As `MessagePublisher` does; a worker claims it at once."""
        self.running.append(ref)
        claim(self.ledger, ref)

    def step(self) -> Counter[str]:
        """A turn of the dispatcher; returns what runs by job."""
        self.dispatcher.step(self.epoch)
        return Counter(ref.job_id for ref in self.running)

    def commit(self) -> ShardRef:
        """The oldest attempt commits. Its shards take longer than such as may wait in a queue."""
        ref = self.running.pop(0)
        assert self.ledger.shards.commit(ref, Completion(1, 0, 10, busy_s=2.0))
        return ref


def test_a_tenant_never_has_more_shards_in_flight_than_it_may(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, TenantShares(most={"a": 2}), 6, ("a", "b"))
    for _ in range(2 * SHARDS):
        running = pool.step()
        assert running["job-a"] <= 2
        pool.commit()
    assert not pool.step()  # all are done: the limit delayed, and left nothing


def test_what_a_limit_leaves_free_goes_to_other_tenants(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, TenantShares(most={"a": 1}), 6, ("a", "b"))
    assert pool.step()["job-b"] >= 5


def test_a_job_says_that_it_waits_for_the_limit_of_its_tenant(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, TenantShares(most={"a": 1}), 4, ("a",))
    submit(ledger, "job-late", tenant="a")
    plan(ledger, epoch, [1], job_id="job-late")
    assert pool.step() == {"job-a": 1}
    reason = pool.loads.why_waits(ledger.jobs.read("job-late"))
    assert reason is not None
    assert "BATCHMILL_TENANT_MAX_SHARDS allows 1" in reason
    assert pool.loads.why_waits(ledger.jobs.read("job-a")) is None  # some of it runs

    pool.commit()
    while pool.step() != {"job-late": 1}:  # the older job goes first
        pool.commit()
    pool.clock.now_s += LOADS_TTL_S + 1
    assert pool.loads.why_waits(ledger.jobs.read("job-late")) is None


def test_weights_hold_in_a_pool_that_takes_two_shards(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, TenantShares({"a": 3.0}), 2, ("a", "b"))
    done: list[str] = []
    for _ in range(SHARDS):
        pool.step()
        done.append(pool.commit().job_id)
    counts = Counter(done)
    assert 2.0 <= counts["job-a"] / counts["job-b"] <= 4.0
