"""Attempts that are asked to make room: once each, not too often, and nothing of them is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from batchmill.fleet import WorkerInfo
from batchmill.jobs.cost import Parts
from batchmill.jobs.job_log import LogEvent
from batchmill.jobs.shard import ShardId
from batchmill.ledger.scripting.calls import RenewAnswer
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.pools import view_pools
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.watches.preemption_watch import PreemptionWatch
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from support.ledger_steps import LEASE_MS, claim, plan, queue_one, submit
from support.records import SPEC

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.fleet_view import FleetView

ROWS = 100
BY = 10
WORKER = WorkerInfo(
    name="cpu0@here", pool="default", device="cpu", operators=["echo"], shards_at_once=2, pid=1, started_at=0.0
)


class Fleet:
    """The only pool: a worker with two slots."""

    def pools(self) -> object:
        return view_pools([WORKER])


def watch_of(ledger: Ledger, shares: TenantShares | None = None, by: int = BY) -> PreemptionWatch:
    metrics = RoleMetrics(new_registry())
    return PreemptionWatch(ledger, cast("FleetView", Fleet()), metrics, shares or TenantShares(), by)


def full(ledger: Ledger, epoch: int) -> list[ShardRef]:
    """Two attempts of a job of priority 0, which take both slots."""
    submit(ledger)
    plan(ledger, epoch, [ROWS] * 3)
    refs = [queue_one(ledger, epoch, number) for number in range(2)]
    for number, ref in enumerate(refs):
        claim(ledger, ref, f"cpu0@here {number}")
    return refs


def urgent(ledger: Ledger, epoch: int, priority: int = BY, shards: int = 1) -> None:
    submit(ledger, "job-2", spec=SPEC.model_copy(update={"priority": priority}))
    plan(ledger, epoch, [1] * shards, job_id="job-2")


def answers(ledger: Ledger, refs: list[ShardRef]) -> list[RenewAnswer]:
    return ledger.shards.renew(refs, LEASE_MS)


def test_as_many_attempts_make_room_as_the_other_job_has_use_for(ledger: Ledger, epoch: int) -> None:
    refs, watch = full(ledger, epoch), watch_of(ledger)
    watch.step(epoch)
    assert answers(ledger, refs) == [RenewAnswer.OK] * 2  # nothing waits that is more urgent
    urgent(ledger, epoch)
    for _ in range(3):  # the slot that it waits for comes
        watch.step(epoch)
    assert sorted(answers(ledger, refs)) == [RenewAnswer.OK, RenewAnswer.PREEMPTED]
    (stage,) = ledger.jobs.read("job-1").stages
    assert stage.shards_preempted == 1
    (entry,) = [one for one in ledger.log.read("job-1").entries if one.event is LogEvent.PREEMPTED]
    assert "priority 10" in entry.message
    assert "job-2" not in entry.message  # it may be another tenant's


def test_a_shard_that_is_queued_but_has_no_slot_waits_as_well(ledger: Ledger, epoch: int) -> None:
    refs = full(ledger, epoch)
    urgent(ledger, epoch)
    ledger.shards.queue("job-2", ledger.jobs.read("job-2").first, ShardId((0,)), epoch)
    watch_of(ledger).step(epoch)
    assert sorted(answers(ledger, refs)) == [RenewAnswer.OK, RenewAnswer.PREEMPTED]


def test_its_shard_waits_again_without_blame_and_is_not_asked_for_ever(ledger: Ledger, epoch: int) -> None:
    refs, watch = full(ledger, epoch), watch_of(ledger)
    urgent(ledger, epoch, shards=2)
    for _ in range(3):
        watch.step(epoch)
        assert answers(ledger, refs) == [RenewAnswer.PREEMPTED] * 2
        for number, ref in enumerate(refs):
            ledger.shards.end_attempt(ref, delay_s=0.0, blame=False, used=Parts(preempted=7))
            refs[number] = queue_one(ledger, epoch, number)
            shard = claim(ledger, refs[number], f"cpu0@here {number}")
            assert (shard.failures, shard.losses) == (0, 0)
    watch.step(epoch)
    assert answers(ledger, refs) == [RenewAnswer.OK] * 2
    assert ledger.costs.totals().tenants["default"].us == Parts(preempted=7 * 6)


def test_a_priority_that_is_a_little_higher_waits_as_does_any_without_the_setting(ledger: Ledger, epoch: int) -> None:
    refs = full(ledger, epoch)
    urgent(ledger, epoch, BY - 1)
    watch_of(ledger).step(epoch)
    watch_of(ledger, by=0).step(epoch)
    assert answers(ledger, refs) == [RenewAnswer.OK] * 2


def test_a_tenant_at_its_limit_takes_no_slot(ledger: Ledger, epoch: int) -> None:
    refs = full(ledger, epoch)
    urgent(ledger, epoch)  # of the same tenant
    watch_of(ledger, TenantShares(most={"default": 2})).step(epoch)
    assert answers(ledger, refs) == [RenewAnswer.OK] * 2


def test_a_deposed_leader_asks_nobody(ledger: Ledger, epoch: int) -> None:
    refs = full(ledger, epoch)
    assert not ledger.stragglers.preempt(refs[0], epoch - 1, 3)
    assert ledger.stragglers.preempt(refs[0], epoch, 3)
    assert not ledger.stragglers.preempt(refs[0], epoch, 3)  # asked before
