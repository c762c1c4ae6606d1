"""How many workers are wanted for tenants whose shards in flight are limited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.cost import Parts
from batchmill_coordinator.roles import scaler as module
from batchmill_coordinator.roles.scaler import Scaler
from batchmill_coordinator.scheduling.scaling.targets import PoolTargets
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from support.ledger_steps import claim, plan, queue_one, submit

if TYPE_CHECKING:
    from collections.abc import Sequence

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
