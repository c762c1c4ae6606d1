"""Shards that are run a second time: whichever attempt commits first has the shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from batchmill.errors import StaleToken
from batchmill.fleet import WorkerInfo
from batchmill.jobs.completion import Completion
from batchmill.jobs.cost import Parts
from batchmill.ledger.scripting.calls import RenewAnswer
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.pools import view_pools
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.straggler_watch import StragglerWatch
from batchmill_coordinator.scheduling.stragglers import Lateness
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from support.ledger_steps import LEASE_MS, claim, plan, queue_one, submit

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger

ROWS = 4
HOUR = 3_600_000_000  # billionths, so that a microsecond costs one
NOW_MS = 1_700_000_000_000


@pytest.fixture
def straggler(ledger: Ledger, epoch: int) -> ShardRef:
    """The last attempt of a job, which runs, as another one did that took a second a row."""
    ledger._store.now_ms = NOW_MS
    submit(ledger)
    plan(ledger, epoch, [ROWS, ROWS])
    first, last = queue_one(ledger, epoch, 0), queue_one(ledger, epoch, 1)
    claim(ledger, first, "w1 a")
    claim(ledger, last, "w1 b", HOUR)
    ledger.shards.commit(first, Completion(ROWS, 0, 10, inline=b"x", busy_s=ROWS))
    return last


def second_attempt(ledger: Ledger, epoch: int, straggler: ShardRef) -> ShardRef:
    second = ledger.stragglers.speculate(straggler, "default", epoch)
    assert second is not None
    return second


def commit(ledger: Ledger, ref: ShardRef) -> bool:
    return ledger.shards.commit(ref, Completion(ROWS, 0, 10, inline=b"x"), used=Parts(useful=5))


@pytest.mark.parametrize("claimed", [True, False])
def test_a_straggler_that_commits_first_has_the_shard(
    ledger: Ledger, epoch: int, straggler: ShardRef, *, claimed: bool
) -> None:
    second = second_attempt(ledger, epoch, straggler)
    if claimed:
        claim(ledger, second, "w2 a", HOUR)
    assert commit(ledger, straggler)
    stage = ledger.jobs.read("job-1").first
    assert (stage.rows_done, stage.shards_live, stage.shards_in_flight, stage.stragglers) == (2 * ROWS, 0, 0, 0)
    assert ledger.shards.queued("default") == []
    assert ledger.shards.renew([second], LEASE_MS) == [RenewAnswer.LOST]
    with pytest.raises(StaleToken):
        commit(ledger, second) if claimed else claim(ledger, second, "w2 a")


def test_a_second_attempt_that_commits_first_has_the_shard_and_the_straggler_is_charged_as_retried(
    ledger: Ledger, epoch: int, straggler: ShardRef
) -> None:
    second = second_attempt(ledger, epoch, straggler)
    claim(ledger, second, "w2 a", HOUR)
    assert ledger.shards.renew([straggler], LEASE_MS, [700]) == [RenewAnswer.OK]
    assert commit(ledger, second)
    stage = ledger.jobs.read("job-1").first
    assert (stage.rows_done, stage.shards_live, stage.shards_speculated) == (2 * ROWS, 0, 1)
    assert (stage.cost.us.retried, stage.cost.us.useful) == (700, 5)
    assert ledger.shards.renew([straggler], LEASE_MS) == [RenewAnswer.LOST]
    with pytest.raises(StaleToken):
        commit(ledger, straggler)


def test_the_worker_of_a_straggler_does_not_get_the_second_attempt(
    ledger: Ledger, epoch: int, straggler: ShardRef
) -> None:
    second = second_attempt(ledger, epoch, straggler)
    with pytest.raises(StaleToken):
        claim(ledger, second, "w1 c")
    ledger._store.now_ms = NOW_MS + 1000
    third = queue_one(ledger, epoch, 1)  # it waits like a shard that is retried
    assert claim(ledger, third, "w2 a").token == straggler.token + 2
    assert commit(ledger, straggler)


def test_an_attempt_is_run_a_second_time_only_once(ledger: Ledger, epoch: int, straggler: ShardRef) -> None:
    second = second_attempt(ledger, epoch, straggler)
    claim(ledger, second, "w2 a")
    assert ledger.stragglers.speculate(second, "default", epoch) is None
    assert ledger.stragglers.speculate(straggler, "default", epoch) is None


def test_a_straggler_whose_lease_runs_out_is_dropped_and_the_second_attempt_goes_on(
    ledger: Ledger, epoch: int, straggler: ShardRef
) -> None:
    second = second_attempt(ledger, epoch, straggler)
    claim(ledger, second, "w2 a")
    ledger._store.now_ms = NOW_MS + LEASE_MS // 2
    ledger.shards.renew([second], LEASE_MS)
    ledger._store.now_ms = NOW_MS + LEASE_MS
    assert ledger.shards.expired(NOW_MS + LEASE_MS) == [straggler]
    ledger.shards.expire_attempt(straggler, epoch, delay_s=0)
    assert ledger.jobs.read("job-1").first.stragglers == 0
    with pytest.raises(StaleToken):
        commit(ledger, straggler)
    assert commit(ledger, second)


class Published:
    """What a watch publishes."""

    def __init__(self) -> None:
        self.refs: list[ShardRef] = []

    def publish(self, _operator: str, _queue: str, ref: ShardRef, *_: Any) -> None:
        self.refs.append(ref)


class Fleet:
    """Workers with that many slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots

    def pools(self) -> Any:
        return view_pools(
            WorkerInfo(
                name=f"cpu{number}@host-1",
                pool="default",
                device="cpu",
                operators=["echo"],
                shards_at_once=1,
                pid=1,
                started_at=0,
            )
            for number in range(self._slots)
        )


def watch(
    ledger: Ledger, slots: int = 2, factor: float = 3.0, shares: TenantShares | None = None
) -> tuple[StragglerWatch, Published]:
    published = Published()
    metrics, lateness = RoleMetrics(new_registry()), Lateness(factor, 0.5)
    args = ledger, cast("Any", Fleet(slots)), cast("Any", published), metrics, shares or TenantShares(), lateness
    return StragglerWatch(*args), published


def test_a_late_shard_at_the_end_of_a_job_is_run_by_an_idle_worker_as_well(
    ledger: Ledger, epoch: int, straggler: ShardRef
) -> None:
    role, published = watch(ledger)
    ledger._store.now_ms = NOW_MS + 3 * ROWS * 1000
    ledger.shards.renew([straggler], 10 * LEASE_MS)
    role.step(epoch)
    assert published.refs == []  # not later than three times what was predicted
    ledger._store.now_ms += 1
    role.step(epoch)
    role.step(epoch)
    assert [ref.token for ref in published.refs] == [straggler.token + 1]


@pytest.mark.parametrize(
    ("slots", "factor", "shares"), [(1, 3.0, None), (2, 0.0, None), (2, 3.0, TenantShares(most={"default": 1}))]
)
def test_a_late_shard_is_left_alone_without_an_idle_worker_or_when_it_is_switched_off_or_over_its_tenants_limit(
    ledger: Ledger, epoch: int, straggler: ShardRef, slots: int, factor: float, shares: TenantShares | None
) -> None:
    role, published = watch(ledger, slots, factor, shares)
    ledger._store.now_ms = NOW_MS + 9 * LEASE_MS
    ledger.shards.renew([straggler], 10 * LEASE_MS)
    role.step(epoch)
    assert published.refs == []
