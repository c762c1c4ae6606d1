"""How many workers are wanted for tenants whose shards in flight are limited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.cost import Parts
from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger.plan_step import PlanStep
from batchmill.sources.base import RowCount
from batchmill_coordinator.roles import scaler as module
from batchmill_coordinator.roles.scaler import Scaler
from batchmill_coordinator.scheduling.scaling.targets import PoolTargets
from batchmill_coordinator.scheduling.tenant_quotas import TenantQuotas
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from support.hand_clock import HandClock
from support.ledger_steps import claim, plan, queue_one, submit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.fleet import PoolScale
    from batchmill.ledger import JobRecord, Ledger

HOUR_US = 3_600_000_000


@pytest.mark.parametrize(("most", "at_most"), [({"ads": 3}, 3), ({"others": 3}, 3000)])
def test_no_more_workers_are_wanted_than_a_tenants_limit_lets_work(
    ledger: Ledger, epoch: int, most: dict[str, int], at_most: int
) -> None:
    submit(ledger, tenant="ads")
    plan(ledger, epoch, [1] * 50)
    first = queue_one(ledger, epoch, 0)
    claim(ledger, first)
    ledger.shards.commit(first, Completion(1, 0, 10, inline=b"x"), used=Parts(useful=HOUR_US))
    Scaler(ledger, PoolTargets(300.0, 150.0), TenantShares(most=most)).step(epoch)
    scale = ledger.scale.decision("default")
    assert scale is not None
    assert at_most // 2 < scale.workers_wanted <= at_most
    assert (scale.held_s > 0) == ("ads" in most)


def test_a_step_reads_few_jobs_however_many_tenants_have_limits_and_jobs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_JOBS", 6)
    for number in range(12):
        submit(ledger, f"job-{number}", tenant="zoo" if number % 2 else "ads")
    read: list[str] = []
    read_many = ledger.jobs.read_many

    def noted(job_ids: Sequence[str]) -> list[JobRecord]:
        read.extend(job_ids)
        return read_many(job_ids)

    monkeypatch.setattr(ledger.jobs, "read_many", noted)
    idle = {f"idle-{number}": 1 for number in range(module.MAX_TENANTS)}
    scaler = Scaler(ledger, PoolTargets(300.0, 150.0), TenantShares(most={"ads": 3, "zoo": 2, **idle}))
    scaler.step(ledger.lead("me", 3600))
    assert sorted(int(job_id.removeprefix("job-")) % 2 for job_id in set(read)) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("measured", [True, False], ids=["measured", "unmeasured"])
@pytest.mark.parametrize("total", [50, None], ids=["of 50 rows", "of any length"])
def test_no_workers_are_wanted_for_work_that_waits_for_the_next_period_of_a_quota(
    ledger: Ledger, epoch: int, total: int | None, *, measured: bool
) -> None:
    quotas = TenantQuotas(ledger, {"ads": 0}, 24 * 3600, HandClock())
    scaler = Scaler(ledger, PoolTargets(300.0, 150.0), TenantShares(), quotas)

    def decided() -> PoolScale:
        scaler.step(epoch)
        scale = ledger.scale.decision("default")
        assert scale is not None
        return scale

    submit(ledger, tenant="ads")
    shards = [Shard("job-1", 0, ShardId((n,)), n, 1, (Slice(0, 0, 1, 1),)) for n in range(9)]
    step = PlanStep(shards, [10] * 9, "cursor", False, RowCount(total, exact=True) if total else None)
    ledger.shards.plan("job-1", ledger.jobs.read("job-1").first, step, epoch)
    if measured:
        first = queue_one(ledger, epoch, 0)
        claim(ledger, first)
        assert ledger.shards.commit(first, Completion(1, 0, 10, inline=b"x"), used=Parts(useful=HOUR_US))
    scale = decided()
    assert scale.workers_wanted == 0
    assert "quotas of tenants hold" in scale.why
    assert (scale.held_s > 0) == measured

    queue_one(ledger, epoch, 1)
    queue_one(ledger, epoch, 2)
    assert decided().workers_wanted == 1  # what is in flight ends as usual, by the workers that there are

    submit(ledger, "job-free", tenant="zoo")
    plan(ledger, epoch, [1] * 2, job_id="job-free")
    assert decided().workers_wanted >= 1
    assert "quotas of tenants hold" not in decided().why
