"""What the ledger charges, on a real Valkey, step by step; `test_ledger_model.py` has it in every order."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import Conflict, StaleToken
from batchmill.jobs.completion import Completion
from batchmill.jobs.cost import NANO, Parts, Spent, Totals, total_of
from batchmill.jobs.job import JobError, JobState
from batchmill.jobs.shard import Shard, ShardId, ShardRef, Slice
from batchmill.ledger import Ledger
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import Submission
from support.records import spec_of

if TYPE_CHECKING:
    import redis

JOB = "job-1"
NOW_MS = 1_900_000_000_000
LEASE_MS = 10_000
PRICE = 3600 * NANO  # one unit a second
USED = Parts(2_000_000, 500_000, 250_000, 125_000, 125_000)  # three seconds
FIVE_ROWS = Completion(rows=4, rows_dead=1, nbytes=1)


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    return Ledger(redis_client, prefix, now_ms=NOW_MS)


def at(ledger: Ledger, seconds: float) -> None:
    ledger._store.now_ms = NOW_MS + round(seconds * 1000)


def begin(ledger: Ledger, epoch: int, shards: int = 2, **changes: object) -> list[ShardRef]:
    """A job that has been planned; its attempts, queued."""
    spec = spec_of("echo", **changes)
    ledger.jobs.submit(Submission(JOB, spec, "digest", tenant="acme"), max_live_jobs=9)
    planned = [Shard(JOB, 0, ShardId((n,)), 5 * n, 5, (Slice(0, 5 * n, 5 * n + 5, 5),)) for n in range(shards)]
    step = PlanStep(planned, [1] * shards, "", at_end=True, total=None)
    assert ledger.shards.plan(JOB, ledger.jobs.read(JOB).first, step, epoch) == "ok"
    return [queue(ledger, epoch, ShardId((n,))) for n in range(shards)]


def queue(ledger: Ledger, epoch: int, shard_id: ShardId) -> ShardRef:
    ref = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, shard_id, epoch)
    assert ref is not None
    return ref


def claim(ledger: Ledger, ref: ShardRef, holder: str = "w1 a", sharers: int = 1) -> Shard:
    claimed = ledger.shards.claim(ref, "default", holder, LEASE_MS, with_job=False, price_nano=PRICE, sharers=sharers)
    assert claimed is not None
    return claimed.shard


def spent(ledger: Ledger) -> Spent:
    return total_of(stage.cost for stage in ledger.jobs.read(JOB).stages)


def retried(ledger: Ledger) -> float:
    """Seconds; nothing else was charged."""
    parts = spent(ledger).us
    assert parts == Parts(retried=parts.total)
    return parts.total / 1e6


def test_a_commit_is_charged_to_its_job_its_tenant_its_operator_and_its_day(ledger: Ledger, epoch: int) -> None:
    first, second = begin(ledger, epoch)
    claim(ledger, first)
    assert ledger.shards.commit(first, FIVE_ROWS, used=USED)
    claim(ledger, second)
    assert ledger.shards.commit(second, FIVE_ROWS, used=Parts(useful=7))
    total = Spent.of(USED, PRICE, 5) + Spent.of(Parts(useful=7), PRICE, 5)
    record = ledger.jobs.read(JOB)
    assert record.first.cost == total
    assert record.cost_nano == total.nano.total == 3 * NANO + 7000
    day = date(1970, 1, 1) + timedelta(milliseconds=NOW_MS)
    assert ledger.costs.totals() == Totals({"acme": total}, {("default", "echo"): total}, {day: total})


def test_a_commit_whose_answer_was_lost_is_charged_once(ledger: Ledger, epoch: int) -> None:
    (ref,) = begin(ledger, epoch, 1)
    claim(ledger, ref)
    for _ in range(2):
        assert ledger.shards.commit(ref, FIVE_ROWS, used=USED)
    assert spent(ledger) == Spent.of(USED, PRICE, 5)


def test_a_commit_that_finds_no_room_is_not_charged_yet(ledger: Ledger, epoch: int) -> None:
    (ref,) = begin(ledger, epoch, 1)
    claim(ledger, ref)
    assert not ledger.shards.commit(ref, Completion(5, 0, 1, inline=b"x" * 70_000), used=USED)
    assert spent(ledger) == Spent()


def test_an_attempt_that_fails_is_charged_once(ledger: Ledger, epoch: int) -> None:
    (ref,) = begin(ledger, epoch, 1)
    claim(ledger, ref)
    ledger.shards.end_attempt(ref, delay_s=0, blame=True, used=USED.as_wasted())
    with pytest.raises(StaleToken):
        ledger.shards.end_attempt(ref, delay_s=0, blame=True, used=USED.as_wasted())
    assert spent(ledger) == Spent.of(USED.as_wasted(), PRICE)


@pytest.mark.parametrize("split", [False, True])
def test_a_lost_attempt_is_charged_for_what_it_told_and_for_its_share_of_the_time_until_its_lease_ended(
    ledger: Ledger, epoch: int, *, split: bool
) -> None:
    (ref,) = begin(ledger, epoch, 1)
    shard = claim(ledger, ref, sharers=2)
    at(ledger, 3)
    assert ledger.shards.renew([ref], LEASE_MS, [1_250_000]) == ["ok"]
    at(ledger, 60)
    for word in ("ok", "stale"):
        answer = ledger.shards.split(shard, epoch) if split else ledger.shards.expire_attempt(ref, epoch, delay_s=0)
        assert answer == word
    assert retried(ledger) == 1.25 + LEASE_MS / 1000
    with pytest.raises(StaleToken):
        ledger.shards.commit(ref, FIVE_ROWS, used=USED)
    assert retried(ledger) == 1.25 + LEASE_MS / 1000


def test_the_attempts_of_a_dead_process_share_the_time_since_they_told(ledger: Ledger, epoch: int) -> None:
    first, second = begin(ledger, epoch)
    claim(ledger, first, "w1 a")
    claim(ledger, second, "w1 b", sharers=2)
    at(ledger, 3)
    ledger.shards.renew([first, second], LEASE_MS, [2_000_000, 1_000_000])
    at(ledger, 4)
    assert ledger.shards.release_leases_of_worker("w1", blamed={first.attempt_key}) == [first, second]
    assert retried(ledger) == 1.5  # of the second; the first one's lease has ended, for the recoverer to find
    at(ledger, 9)
    assert ledger.shards.expire_attempt(first, epoch, delay_s=0) == "ok"
    assert retried(ledger) == 1.5 + 2.5
    assert ledger.shards.release_leases_of_worker("w1") == []
    assert retried(ledger) == 4.0  # as long as both were there


def test_a_claim_that_is_asked_again_goes_on_counting(ledger: Ledger, epoch: int) -> None:
    (ref,) = begin(ledger, epoch, 1)
    claim(ledger, ref)
    at(ledger, 2)
    claim(ledger, ref)
    ledger.shards.release_leases_of_worker("w1")
    ledger.shards.expire_attempt(ref, epoch, delay_s=0)
    assert retried(ledger) == 2.0


def test_a_job_that_reaches_its_budget_is_paused_unless_it_has_no_work_left(ledger: Ledger, epoch: int) -> None:
    first, second = begin(ledger, epoch, budget=3.0)
    claim(ledger, first)
    claim(ledger, second)
    ledger.shards.commit(first, FIVE_ROWS, used=USED)
    assert ledger.jobs.read(JOB).state is JobState.PAUSED
    assert ledger.shards.renew([second], LEASE_MS, [0]) == ["paused"]
    with pytest.raises(Conflict, match=r"has cost 3, and its budget of 3 does not let it continue.*--budget N"):
        ledger.jobs.resume(JOB)
    with pytest.raises(Conflict, match=r"a budget of 2\.5 does not"):
        ledger.jobs.resume(JOB, 2.5)
    ledger.jobs.resume(JOB, 3.5)
    assert (ledger.jobs.read(JOB).state, ledger.jobs.read(JOB).budget_nano) == (JobState.RUNNING, 3.5 * NANO)
    ledger.shards.commit(second, FIVE_ROWS, used=USED)
    assert ledger.jobs.read(JOB).state is JobState.RUNNING
    assert ledger.jobs.finish(ledger.jobs.read(JOB), JobState.COMPLETED, epoch)
    with pytest.raises(Conflict, match="has ended"):
        ledger.jobs.resume(JOB, 100.0)


def test_a_budget_that_a_running_job_is_given_holds_at_once(ledger: Ledger, epoch: int) -> None:
    first, *_ = begin(ledger, epoch, 3)
    claim(ledger, first)
    ledger.jobs.resume(JOB, 2.0)
    ledger.shards.end_attempt(first, delay_s=0, blame=True, used=USED)
    assert ledger.jobs.read(JOB).state is JobState.PAUSED


def test_a_running_job_is_given_no_budget_below_what_it_has_cost(ledger: Ledger, epoch: int) -> None:
    first, _ = begin(ledger, epoch)
    claim(ledger, first)
    ledger.shards.commit(first, FIVE_ROWS, used=USED)
    with pytest.raises(Conflict, match="a budget of 3 does not"):
        ledger.jobs.resume(JOB, 3.0)
    record = ledger.jobs.read(JOB)
    assert (record.state, record.budget_nano) == (JobState.RUNNING, None)


def test_a_job_that_is_stopped_stays_so_however_much_it_costs(ledger: Ledger, epoch: int) -> None:
    first, _ = begin(ledger, epoch, budget=1.0)
    claim(ledger, first)
    ledger.jobs.stop(JOB, JobState.CANCELLING, None)
    ledger.shards.end_attempt(first, delay_s=0, blame=False, used=USED)
    assert ledger.jobs.read(JOB).state is JobState.CANCELLING


def test_a_lease_that_outlived_its_attempt_is_renewed_without_a_trace_of_a_shard(
    ledger: Ledger, epoch: int, redis_client: redis.Redis
) -> None:
    (ref,) = begin(ledger, epoch, 1)
    claim(ledger, ref)
    ledger.shards.commit(ref, FIVE_ROWS, used=USED)
    redis_client.zadd(ledger._store.keys.leases(), {ref.attempt_key: NOW_MS})
    ledger.shards.renew([ref], LEASE_MS, [1])
    assert ledger.shards.read(ref) is None


def test_an_error_that_stops_the_job_goes_before_its_budget(ledger: Ledger, epoch: int) -> None:
    first, _ = begin(ledger, epoch, budget=1.0)
    claim(ledger, first)
    error = JobError(code="operator_failed", message="broken")
    ledger.shards.end_attempt(first, delay_s=0, blame=True, used=USED, stop_with=error)
    record = ledger.jobs.read(JOB)
    assert (record.state, record.error, record.paused_at) == (JobState.FAILING, error, None)


def test_names_beyond_two_hundred_are_counted_together_and_days_long_ago_are_dropped(
    ledger: Ledger, epoch: int, redis_client: redis.Redis
) -> None:
    keys, today = ledger._store.keys, NOW_MS // 86_400_000
    fields = {
        keys.cost_tenants(): ["acme", *(f"t{n}" for n in range(2799))],
        keys.cost_pools(): [f"p{n} o" for n in range(2800)],
        keys.cost_days(): [f"{today - ago}" for ago in (1, 399, 400, 1000)],
    }
    for key, names in fields.items():
        redis_client.hset(key, mapping={f"{name} attempts": 1 for name in names})
    (ref,) = begin(ledger, epoch, 1)
    claim(ledger, ref)
    ledger.shards.commit(ref, FIVE_ROWS, used=USED)
    totals, bill = ledger.costs.totals(), Spent.of(USED, PRICE, 5)
    assert totals.tenants["acme"] == bill
    assert totals.operators["other", "other"] == bill
    assert ("default", "echo") not in totals.operators
    days = sorted((day - date(1970, 1, 1)).days - today for day in totals.days)
    assert days == [-399, -1, 0]
