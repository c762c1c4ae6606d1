"""Quotas of device time: what is counted, and what the dispatcher queues, over a real ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.cost import Parts
from batchmill.jobs.job import JobState
from batchmill.jobs.job_log import LogEvent
from batchmill.ledger import Ledger
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.metering.costs import MAX_NAMES, quota_metrics
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.dispatcher import Dispatcher
from batchmill_coordinator.roles.watcher import MIN_BLOCKED_S, Watcher
from batchmill_coordinator.scheduling.tenant_quotas import USED_TTL_S, TenantQuotas
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from support.hand_clock import HandClock
from support.ledger_steps import claim, plan, submit
from support.planning import announce_worker

if TYPE_CHECKING:
    import redis

    from batchmill.jobs.shard import ShardRef

DAY_S = 24 * 3600
MIDNIGHT_MS = 22_000 * DAY_S * 1000
ONE_EACH = TenantShares(most={"a": 1, "b": 1})  # so that tests need not know what is queued beyond the slots
USED = Parts(2_000_000, 500_000, 250_000, 125_000, 125_000)  # three seconds


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    return Ledger(redis_client, prefix, now_ms=MIDNIGHT_MS + 1000)


class Pool:
    """A worker with one slot, which claims what is queued, and commits it when it is told to."""

    def __init__(self, ledger: Ledger, epoch: int, limits: dict[str, int]) -> None:
        self.ledger, self.epoch, self.clock = ledger, epoch, HandClock()
        self.running: list[ShardRef] = []
        announce_worker(ledger, shards_at_once=1)
        self.quotas = TenantQuotas(ledger, limits, DAY_S, self.clock)
        fleet, metrics = FleetView(ledger, HandClock()), RoleMetrics(new_registry())
        self.dispatcher = Dispatcher(ledger, fleet, cast("Any", self), metrics, ONE_EACH, self.quotas)

    def publish(self, _operator: str, _queue: str, ref: ShardRef, *_: object) -> None:
        """As `MessagePublisher` does; the worker claims it at once."""
        self.running.append(ref)
        claim(self.ledger, ref)

    def jobs(self) -> list[str]:
        """A turn of the dispatcher; returns the jobs of what runs."""
        self.clock.now_s += USED_TTL_S + 1
        self.dispatcher.step(self.epoch)
        return [ref.job_id for ref in self.running]

    def commit(self) -> None:
        """The attempt commits, three seconds of a device."""
        assert self.ledger.shards.commit(self.running.pop(0), Completion(1, 0, 10, busy_s=3.0), used=USED)

    def reason(self, job_id: str) -> str | None:
        self.clock.now_s += USED_TTL_S + 1
        return self.quotas.why_waits(self.ledger.jobs.read(job_id))


def add_job(ledger: Ledger, epoch: int, tenant: str, shards: int) -> None:
    submit(ledger, f"job-{tenant}", tenant=tenant)
    plan(ledger, epoch, [1] * shards, job_id=f"job-{tenant}")


def test_beyond_its_quota_nothing_of_a_tenant_is_queued_until_the_next_period(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, {"a": 5})
    add_job(ledger, epoch, "a", 4)
    assert pool.jobs() == ["job-a"]
    pool.commit()
    assert pool.jobs() == ["job-a"]  # three of five seconds are used
    assert pool.reason("job-a") is None
    pool.commit()

    assert pool.jobs() == []
    reason = pool.reason("job-a")
    assert reason is not None
    assert "charged 6 s" in reason
    assert "BATCHMILL_TENANT_MAX_DEVICE_S allows 5 s" in reason

    ledger._store.now_ms = MIDNIGHT_MS + DAY_S * 1000
    while pool.jobs():
        pool.commit()
    record = ledger.jobs.read("job-a")
    assert record.first.rows_done == 4  # nothing was lost
    assert record.state is JobState.RUNNING  # until the finisher looks at it
    assert pool.reason("job-a") is None


def test_the_log_of_a_job_says_once_that_its_tenants_quota_holds_it_and_when_that_ends(
    ledger: Ledger, epoch: int
) -> None:
    pool = Pool(ledger, epoch, {"a": 1})
    fleet, metrics = FleetView(ledger, pool.clock), RoleMetrics(new_registry())
    watcher = Watcher(ledger, fleet, pool.clock, "USD", metrics, pool.quotas)

    def look_twice() -> list[tuple[LogEvent, str]]:
        for _ in range(2):
            pool.clock.now_s += MIN_BLOCKED_S
            watcher.step(epoch)
        blocks = (LogEvent.BLOCKED, LogEvent.UNBLOCKED)
        return [(one.event, one.message) for one in ledger.log.read("job-a").entries if one.event in blocks]

    def set_time(now_ms: int) -> None:
        ledger._store.now_ms = now_ms
        announce_worker(ledger, shards_at_once=1)

    add_job(ledger, epoch, "a", 3)
    pool.jobs()
    assert look_twice() == []
    pool.commit()
    assert pool.jobs() == []
    for _ in range(2):  # what is left of the period has changed meanwhile
        ((event, message),) = look_twice()
        assert event is LogEvent.BLOCKED
        assert message == (
            "its tenant 'a' has used up the 1 s of devices that BATCHMILL_TENANT_MAX_DEVICE_S allows in a period: it "
            "continues by itself at 2030-03-28 00:00 UTC."
        )
        set_time(MIDNIGHT_MS + 3_600_000)
    set_time(MIDNIGHT_MS + DAY_S * 1000)
    assert [event for event, _ in look_twice()] == [LogEvent.BLOCKED, LogEvent.UNBLOCKED]


def test_costs_and_metrics_show_what_is_used_of_quotas(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, {"a": 4, "b": 0, "c": 10})
    pool.jobs()  # the period is begun
    add_job(ledger, epoch, "a", 3)
    pool.jobs()
    pool.commit()
    pool.clock.now_s += USED_TTL_S + 1
    quotas = list(pool.quotas.uses().values())
    totals = ledger.costs.totals()
    assert [(one.tenant, one.used_s, one.limit_s) for one in totals.report("EUR", 9, None, quotas).quotas] == [
        ("b", 0, 0), ("a", 3, 4), ("c", 0, 10)
    ]  # fmt: skip
    assert [one.tenant for one in totals.report("EUR", 1, None, quotas).quotas] == ["b"]
    (own,) = totals.report("EUR", 9, "a", quotas).quotas
    assert own.ends_at.isoformat() == "2030-03-28T00:00:00+00:00"
    assert not own.is_used_up
    limits, used = ({sample.labels["tenant"]: sample.value for sample in one.samples} for one in quota_metrics(quotas))
    assert (limits, used) == ({"a": 4, "b": 0, "c": 10}, {"a": 3, "b": 0, "c": 0})
    many = [own.model_copy(update={"tenant": f"t{number}"}) for number in range(MAX_NAMES + 5)]
    assert [len(one.samples) for one in quota_metrics([*many, *quotas])] == [MAX_NAMES] * 2


def test_what_a_quota_leaves_free_goes_to_other_tenants(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, {"a": 1})
    add_job(ledger, epoch, "a", 4)
    assert pool.jobs() == ["job-a"]
    pool.commit()
    add_job(ledger, epoch, "b", 4)
    for _ in range(4):
        assert pool.jobs() == ["job-b"]
        pool.commit()
    assert pool.jobs() == []


def test_the_count_goes_on_with_another_leader(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, {"a": 1})
    add_job(ledger, epoch, "a", 2)
    pool.jobs()
    pool.commit()
    assert Pool(ledger, epoch, {"a": 1}).jobs() == []
    assert Pool(ledger, epoch, {"a": 4}).jobs() == ["job-a"]  # a higher quota holds at once


def test_a_period_counts_what_was_charged_in_it(ledger: Ledger, epoch: int) -> None:
    pool = Pool(ledger, epoch, {})
    add_job(ledger, epoch, "a", 3)
    costs, now_ms = ledger.costs, ledger.now_ms()
    assert costs.charged_in_period(["a", "b"], DAY_S, now_ms) == {"a": 0.0, "b": 0.0}
    pool.jobs()
    pool.commit()
    assert costs.charged_in_period(["a", "b"], DAY_S, now_ms) == {"a": 3.0, "b": 0.0}
    assert costs.charged_in_period(["a"], DAY_S, now_ms + DAY_S * 1000) == {"a": 0.0}
    assert costs.charged_in_period(["a"], DAY_S, now_ms) == {"a": 3.0}  # a clock that goes back
    assert costs.charged_in_period([], DAY_S, now_ms) == {}


def test_a_tenant_with_a_quota_is_counted_however_many_others_have_a_sum(
    ledger: Ledger, epoch: int, redis_client: redis.Redis
) -> None:
    others: dict[Any, Any] = {f"t{number} attempts": 1 for number in range(2800)}
    redis_client.hset(ledger._store.keys.cost_tenants(), mapping=others)
    pool = Pool(ledger, epoch, {"a": 3})
    add_job(ledger, epoch, "a", 2)
    assert pool.jobs() == ["job-a"]
    pool.commit()
    assert pool.jobs() == []
