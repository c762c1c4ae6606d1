"""What the ledger keeps of a job's pace: a few intervals between its commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.completion import Completion
from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger import Ledger
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import Submission
from support.records import spec_of

if TYPE_CHECKING:
    import redis

    from batchmill.ledger.formats.encodings import CommitInterval

JOB = "job-1"


def begin(ledger: Ledger, epoch: int, shards: int, rows: int) -> int:
    """Plan a job; when it started (ms)."""
    ledger.jobs.submit(Submission(JOB, spec_of(operator="echo"), "digest"), max_live_jobs=100)
    plan(ledger, epoch, shards, rows)
    started_at = ledger.jobs.read(JOB).started_at
    assert started_at is not None
    return started_at


def plan(ledger: Ledger, epoch: int, shards: int, rows: int) -> None:
    record = ledger.jobs.read(JOB)
    slices = (Slice(0, 0, rows, rows),)
    made = [Shard(JOB, 0, ShardId((record.first.shards_planned + n,)), 0, rows, slices) for n in range(shards)]
    step = PlanStep(made, [1] * shards, f"cursor-{record.first.shards_planned}", at_end=False, total=None)
    assert ledger.shards.plan(JOB, record.first, step, epoch) == "ok"


def settle(then: Ledger, epoch: int, number: int, completion: Completion) -> list[CommitInterval]:
    """Commit a shard at that time; the intervals that are kept afterwards."""
    ref = then.shards.queue(JOB, then.jobs.read(JOB).first, ShardId((number,)), epoch)
    assert ref is not None
    then.shards.claim(ref, "default", "worker", 10_000, with_job=False)
    assert then.shards.commit(ref, completion)
    return list(then.jobs.read(JOB).first.paces)


def test_intervals_begin_with_the_first_commit_and_last_a_second_at_least(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    started_ms = begin(ledger, epoch, shards=4, rows=10)
    kept = [
        settle(Ledger(redis_client, prefix, now_ms=started_ms + after_ms), epoch, number, Completion(9, 1, 1))
        for number, after_ms in enumerate([2_000, 2_500, 4_000, 14_000])
    ]
    assert kept == [[], [], [(2000, 20)], [(2000, 20), (10000, 10)]]


def test_an_interval_of_a_long_run_is_a_64th_of_it_at_least(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    started_ms = begin(ledger, epoch, shards=60, rows=1)
    kept: list[CommitInterval] = []
    for number in range(60):
        then = Ledger(redis_client, prefix, now_ms=started_ms + 1_000_000 + 1_000 * number)
        kept = settle(then, epoch, number, Completion(1, 0, 1))
    assert kept == [(16000, 16), (17000, 17), (17000, 17)]


def test_the_last_sixteen_intervals_are_kept(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    started_ms = begin(ledger, epoch, shards=20, rows=1)
    kept: list[CommitInterval] = []
    for number in range(20):
        then = Ledger(redis_client, prefix, now_ms=started_ms + 1_001 * number)
        kept = settle(then, epoch, number, Completion(1, 0, 1))
    assert kept == [(1001, 1)] * 16


def test_after_the_service_was_away_the_pace_is_measured_anew(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    started_ms = begin(ledger, epoch, shards=5, rows=10)

    def at(after_ms: int) -> Ledger:
        return Ledger(redis_client, prefix, now_ms=started_ms + after_ms)

    for number, after_ms in enumerate([2_000, 4_000]):
        settle(at(after_ms), epoch, number, Completion(10, 0, 1))
    ledger.leases.restart_paces([(JOB, 0)], epoch - 1)
    assert len(ledger.jobs.read(JOB).first.paces) == 1  # a deposed leader changes nothing
    ledger.leases.restart_paces([(JOB, 0)], epoch)
    kept = [
        settle(at(after_ms), epoch, number, Completion(10, 0, 1))
        for number, after_ms in enumerate([900_000, 902_000, 920_000], start=2)
    ]
    assert kept == [[], [], [(20000, 20)]]
