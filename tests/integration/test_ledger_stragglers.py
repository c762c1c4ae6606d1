"""Shards that are run a second time: whichever attempt commits first has the shard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchmill.errors import StaleToken
from batchmill.fleet import WorkerInfo
from batchmill.jobs.completion import Completion
from batchmill.jobs.cost import Parts
from batchmill.jobs.job_log import LogEvent
from batchmill.ledger.scripting.calls import RenewAnswer
from batchmill.operators.contract import OperatorInfo
from batchmill.operators.model_key import profile_name
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.pools import view_pools
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.recoverer import Recoverer
from batchmill_coordinator.roles.watches.straggler_watch import StragglerWatch
from batchmill_coordinator.scheduling.stragglers import Lateness
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from support.ledger_steps import LEASE_MS, claim, plan, queue_one, submit
from support.records import SPEC

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger

ROWS = 4
HOUR = 3_600_000_000  # billionths, so that a microsecond costs one
NOW_MS = 1_700_000_000_000
OPERATOR = OperatorInfo(name="echo", params_schema={})


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


def test_the_worker_of_a_straggler_is_offered_the_second_attempt_ever_more_rarely(
    ledger: Ledger, epoch: int, straggler: ShardRef
) -> None:
    ref, waits_ms = second_attempt(ledger, epoch, straggler), []
    for _ in range(7):
        with pytest.raises(StaleToken):
            claim(ledger, ref, "w1 c")
        key = ledger._store.keys.waiting("job-1", 0)
        ((_, due_ms),) = ledger._store.redis.zrange(key, 0, -1, withscores=True)
        waits_ms.append(round(due_ms) - ledger._store.now_ms)
        ledger._store.now_ms = round(due_ms)
        ledger.shards.renew([straggler], LEASE_MS)
        ref = queue_one(ledger, epoch, 1)
    assert waits_ms == [500, 1000, 2000, 4000, 8000, 8000, 8000]


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
    """What is published, and of which attempts it is said that they are lost, with their workers."""

    def __init__(self) -> None:
        self.refs: list[ShardRef] = []
        self.lost: list[tuple[ShardRef, str]] = []

    def publish(self, _operator: str, _queue: str, ref: ShardRef, *_: Any) -> None:
        self.refs.append(ref)

    def report_lost(self, _operator: str, ref: ShardRef, worker: str, *_: Any) -> None:
        self.lost.append((ref, worker))


class Fleet:
    """Workers "w1", "w2", … with a slot each, by their types of devices."""

    def __init__(self, *types: str) -> None:
        self._types = types

    def operator(self, _name: str) -> OperatorInfo:
        return OPERATOR

    def pools(self) -> Any:
        return view_pools(
            WorkerInfo(
                name=f"w{number}",
                pool="default",
                device="cuda:0",
                device_type=device,
                operators=["echo"],
                shards_at_once=1,
                pid=1,
                started_at=0,
            )
            for number, device in enumerate(self._types, 1)
        )


TWO_ALIKE = Fleet("L4", "L4")


def watch(
    ledger: Ledger, fleet: Fleet = TWO_ALIKE, factor: float = 3.0, shares: TenantShares | None = None
) -> tuple[StragglerWatch, Published]:
    published = Published()
    metrics, lateness = RoleMetrics(new_registry()), Lateness(factor, 0.5)
    args = ledger, cast("Any", fleet), cast("Any", published), metrics, shares or TenantShares(), lateness
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
    ("fleet", "factor", "shares"),
    [(Fleet("L4"), 3.0, None), (TWO_ALIKE, 0.0, None), (TWO_ALIKE, 3.0, TenantShares(most={"default": 1}))],
)
def test_a_late_shard_is_left_alone_without_an_idle_worker_or_when_it_is_switched_off_or_over_its_tenants_limit(
    ledger: Ledger, epoch: int, straggler: ShardRef, fleet: Fleet, factor: float, shares: TenantShares | None
) -> None:
    role, published = watch(ledger, fleet, factor, shares)
    ledger._store.now_ms = NOW_MS + 9 * LEASE_MS
    ledger.shards.renew([straggler], 10 * LEASE_MS)
    role.step(epoch)
    assert published.refs == []


def test_a_shard_of_a_slow_device_is_run_by_an_idle_faster_one_before_it_is_late(
    ledger: Ledger, epoch: int, straggler: ShardRef
) -> None:
    for device, unit_s in (("T4", 0.008), ("H100", 0.001)):
        timings = [[units, units * unit_s] for units in (64.0, 128.0)]
        ledger.profiles.write(profile_name(OPERATOR, SPEC.first.params) + device, json.dumps({"timings": timings}))
    alike, _ = watch(ledger)
    alike.step(epoch)
    assert ledger.jobs.read("job-1").first.stragglers == 0
    role, published = watch(ledger, Fleet("T4", "H100"))
    role.step(epoch)
    assert [ref.token for ref in published.refs] == [straggler.token + 1]
    (entry,) = ledger.log.read("job-1").entries
    assert (entry.event, "on a slow device while a faster one is idle" in entry.message) == (LogEvent.STRAGGLED, True)


def test_a_straggler_that_vanishes_is_told_of_in_the_log_of_its_job(
    ledger: Ledger, epoch: int, straggler: ShardRef
) -> None:
    second = second_attempt(ledger, epoch, straggler)
    claim(ledger, second, "w2 a")
    published, nobody = Published(), cast("Any", None)
    role = Recoverer(ledger, cast("Any", Fleet()), cast("Any", published), nobody, 10.0, RoleMetrics(new_registry()))
    role.step(epoch)
    ledger._store.now_ms = NOW_MS + LEASE_MS // 2
    ledger.shards.renew([second], LEASE_MS)
    role.step(epoch)
    assert published.lost == []
    ledger._store.now_ms = NOW_MS + LEASE_MS
    role.step(epoch)
    (entry,) = ledger.log.read("job-1").entries
    assert (entry.event, entry.worker, entry.attempt) == (LogEvent.LOST, "w1", straggler.token)
    assert entry.message == "its worker died or did not renew the lease; the second attempt continues"
    assert published.lost == [(straggler, "w1")]
    assert commit(ledger, second)
