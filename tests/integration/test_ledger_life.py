"""Jobs in the ledger that are paused, expire, or are deleted, on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.errors import Conflict, NotFound, StaleToken
from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JOB_MOVES, JobError, JobState
from batchmill.jobs.shard import Shard, ShardId, ShardRef, ShardState, Slice
from batchmill.ledger import Ledger
from batchmill.ledger.formats.encodings import EndedJob
from batchmill.ledger.formats.record import JobStage
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import OneShardPlan, Submission
from batchmill.sources.base import RowCount
from support.records import spec_of

if TYPE_CHECKING:
    import redis

JOB = "job-1"
LEASE_MS = 10_000
START_MS = 1_000_000_000_000
DONE = Completion(rows=5, rows_dead=0, nbytes=10)


@pytest.fixture
def now(redis_client: redis.Redis, prefix: str) -> Ledger:
    return Ledger(redis_client, prefix, now_ms=START_MS)


def later(redis_client: redis.Redis, prefix: str, seconds: float) -> Ledger:
    return Ledger(redis_client, prefix, now_ms=START_MS + int(seconds * 1000))


def submit(ledger: Ledger, key: str | None = None) -> None:
    submission = Submission(JOB, spec_of(operator="echo"), "digest", key, inline_rows=b"rows")
    ledger.jobs.submit(submission, max_live_jobs=10)


def plan(ledger: Ledger, epoch: int, shards: int) -> str:
    planned = [Shard(JOB, 0, ShardId((number,)), 5 * number, 5, (Slice(0, 0, 5, 5),)) for number in range(shards)]
    step = PlanStep(planned, [10] * shards, "end", True, RowCount(5 * shards, exact=True))
    return ledger.shards.plan(JOB, ledger.jobs.read(JOB).first, step, epoch)


def queue(ledger: Ledger, epoch: int, number: int) -> ShardRef | None:
    return ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((number,)), epoch)


def job_and_stage(ledger: Ledger) -> JobStage:
    record = ledger.jobs.read(JOB)
    return JobStage(record, record.first)


def claim(ledger: Ledger, ref: ShardRef) -> bool:
    return ledger.shards.claim(ref, "default", "w1", LEASE_MS, with_job=False) is not None


def begin(ledger: Ledger, epoch: int, shards: int = 1) -> list[ShardRef]:
    """A job all of whose shards run."""
    submit(ledger)
    plan(ledger, epoch, shards)
    refs = [ref for number in range(shards) if (ref := queue(ledger, epoch, number))]
    assert all(claim(ledger, ref) for ref in refs)
    return refs


def bring_to(ledger: Ledger, state: JobState, epoch: int) -> None:
    """A job without shards at work, in any state."""
    submit(ledger)
    stops = {
        JobState.CANCELLED: JobState.CANCELLING,
        JobState.FAILED: JobState.FAILING,
        JobState.EXPIRED: JobState.EXPIRING,
    }
    if state in (JobState.RUNNING, JobState.PAUSED):
        plan(ledger, epoch, 1)
    if state is JobState.COMPLETED:
        plan(ledger, epoch, 0)
    if state is JobState.PAUSED:
        ledger.jobs.pause(JOB)
    if state in stops or state.is_stopping:
        error = JobError(code="x", message="x")
        ledger.jobs.stop(JOB, stops.get(state, state), error)  # type: ignore[arg-type]  # one of the three
    if state.is_final:
        assert ledger.jobs.finish(ledger.jobs.read(JOB), state, epoch)
    assert ledger.jobs.read(JOB).state is state


def all_keys(client: redis.Redis, prefix: str) -> set[str]:
    return {key.decode().removeprefix(prefix) for key in client.scan_iter(f"{prefix}*")}


def test_a_paused_job_is_neither_planned_nor_queued_nor_claimed_and_its_attempts_are_told_to_stop(
    ledger: Ledger, epoch: int
) -> None:
    submit(ledger)
    plan(ledger, epoch, 3)
    running, queued = queue(ledger, epoch, 0), queue(ledger, epoch, 1)
    assert running
    assert queued
    claim(ledger, running)
    ledger.jobs.pause(JOB)
    assert queue(ledger, epoch, 2) is None
    assert not claim(ledger, queued)
    assert ledger.shards.renew([running], LEASE_MS) == ["paused"]
    ledger.shards.end_attempt(running, delay_s=0, blame=False)
    assert queue(ledger, epoch, 0) is None
    assert not ledger.jobs.finish(ledger.jobs.read(JOB), JobState.COMPLETED, epoch)


def test_a_job_paused_before_it_began_is_pending_again_and_then_planned(ledger: Ledger, epoch: int) -> None:
    submit(ledger)
    ledger.jobs.pause(JOB)
    ledger.jobs.pause(JOB)
    assert plan(ledger, epoch, 1) == "over"
    ledger.jobs.resume(JOB)
    assert ledger.jobs.read(JOB).state is JobState.PENDING
    assert plan(ledger, epoch, 1) == "ok"
    ledger.jobs.resume(JOB)
    assert ledger.jobs.read(JOB).state is JobState.RUNNING


@pytest.mark.parametrize("state", JobState)
def test_pause_and_resume_move_a_job_as_the_drawing_says_and_refuse_the_rest_by_name(
    ledger: Ledger, epoch: int, state: JobState
) -> None:
    bring_to(ledger, state, epoch)
    stands = rf"{JOB} has ended \({state}\)" if state.is_final else f"{JOB} is {state}"
    if JobState.PAUSED in JOB_MOVES[state] or state is JobState.PAUSED:
        ledger.jobs.pause(JOB)
        assert ledger.jobs.read(JOB).state is JobState.PAUSED
        ledger.jobs.resume(JOB)
        assert ledger.jobs.read(JOB).state in JOB_MOVES[JobState.PAUSED]
        return
    with pytest.raises(Conflict, match=f"{stands} and cannot be paused"):
        ledger.jobs.pause(JOB)
    with pytest.raises(Conflict, match=f"{stands} and cannot be resumed"):
        ledger.jobs.resume(JOB)
    assert ledger.jobs.read(JOB).state is state


def test_an_unknown_job_can_be_neither_paused_nor_resumed_nor_deleted(ledger: Ledger) -> None:
    for steer in (ledger.jobs.pause, ledger.jobs.resume, ledger.retention.mark_for_deletion):
        with pytest.raises(NotFound, match="job-none"):
            steer("job-none")


def test_queued_shards_of_a_paused_job_are_taken_back_and_queued_anew_when_it_resumes(
    ledger: Ledger, epoch: int
) -> None:
    submit(ledger)
    plan(ledger, epoch, 3)
    first, second = queue(ledger, epoch, 0), queue(ledger, epoch, 1)
    assert first
    assert second
    claim(ledger, first)
    assert ledger.jobs.unqueue_paused(*job_and_stage(ledger), epoch) == 0
    ledger.jobs.pause(JOB)
    assert ledger.jobs.unqueue_paused(*job_and_stage(ledger), epoch + 1) == 0
    assert ledger.jobs.unqueue_paused(*job_and_stage(ledger), epoch) == 1
    assert ledger.shards.queued("default") == []
    record = ledger.jobs.read(JOB)
    assert (record.first.shards_queued, record.shards_running, record.shards_live) == (0, 1, 3)
    shard = ledger.shards.read(second)
    assert shard is not None
    assert (shard.state, shard.failures, shard.losses) == (ShardState.WAITING, 0, 0)
    ledger.jobs.resume(JOB)
    with pytest.raises(StaleToken):
        claim(ledger, second)
    again = queue(ledger, epoch, 1)
    assert again
    assert again.token == second.token + 1
    assert claim(ledger, again)
    assert ledger.shards.commit(first, DONE)


def test_a_shard_whose_message_was_dropped_in_a_pause_too_short_to_take_it_back_still_counts_as_queued(
    ledger: Ledger, epoch: int
) -> None:
    submit(ledger)
    plan(ledger, epoch, 1)
    ref = queue(ledger, epoch, 0)
    assert ref
    ledger.jobs.pause(JOB)
    assert not claim(ledger, ref)
    ledger.jobs.resume(JOB)
    assert [queued for queued, _ in ledger.shards.queued("default")] == [ref]  # what the recoverer publishes again
    assert claim(ledger, ref)


def test_a_job_whose_last_shard_is_committed_while_it_is_paused_completes(ledger: Ledger, epoch: int) -> None:
    (ref,) = begin(ledger, epoch)
    ledger.jobs.pause(JOB)
    assert ledger.shards.commit(ref, DONE)
    assert ledger.jobs.finish(ledger.jobs.read(JOB), JobState.COMPLETED, epoch)
    assert ledger.jobs.read(JOB).paused_at is None


def test_a_paused_job_can_be_cancelled(ledger: Ledger, epoch: int) -> None:
    submit(ledger)
    plan(ledger, epoch, 2)
    queue(ledger, epoch, 0)
    ledger.jobs.pause(JOB)
    assert ledger.jobs.stop(JOB, JobState.CANCELLING, None) is JobState.CANCELLING
    assert ledger.jobs.finish(ledger.jobs.read(JOB), JobState.CANCELLED, epoch)
    assert ledger.shards.queued("default") == []


def test_the_pace_is_measured_without_the_pause(
    ledger: Ledger, now: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    first, second, third, fourth = begin(now, epoch, shards=4)
    at_1, at_2, at_3 = (later(redis_client, prefix, seconds) for seconds in (1, 2, 3))
    at_1000, at_1002, at_1004 = (later(redis_client, prefix, seconds) for seconds in (1000, 1002, 1004))
    assert at_1.shards.commit(first, Completion(rows=20, rows_dead=0, nbytes=1))
    assert at_2.shards.commit(second, Completion(rows=20, rows_dead=0, nbytes=1))
    at_3.jobs.pause(JOB)
    assert ledger.jobs.read(JOB).paused_at == START_MS + 3_000
    at_1000.jobs.resume(JOB)
    assert at_1002.shards.commit(third, Completion(rows=20, rows_dead=0, nbytes=1))
    assert at_1004.shards.commit(fourth, Completion(rows=20, rows_dead=0, nbytes=1))
    record = ledger.jobs.read(JOB)
    assert (record.first.paces, record.paused_ms, record.paused_at) == (((1000, 20), (2000, 20)), 997_000, None)
    assert record.first.last_queued_at == START_MS + 1_000_000


def test_a_pause_that_ends_with_the_job_counts_too_but_not_one_before_the_start(
    now: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    submit(now)
    now.jobs.pause(JOB)
    at_10, at_15 = (later(redis_client, prefix, seconds) for seconds in (10, 15))
    at_10.jobs.resume(JOB)
    assert now.jobs.read(JOB).paused_ms == 0
    plan(at_10, epoch, 1)
    at_10.jobs.pause(JOB)
    at_15.jobs.stop(JOB, JobState.CANCELLING, None)
    assert now.jobs.read(JOB).paused_ms == 5_000


def test_an_expiring_job_gives_no_work_and_ends_expired(ledger: Ledger, epoch: int) -> None:
    first, second = begin(ledger, epoch, shards=2)
    ledger.shards.commit(first, DONE)
    assert ledger.jobs.stop(JOB, JobState.EXPIRING, None) is JobState.EXPIRING
    assert ledger.jobs.stop(JOB, JobState.CANCELLING, None) is JobState.EXPIRING
    assert ledger.shards.renew([second], LEASE_MS) == ["stopped"]
    assert not ledger.jobs.finish(ledger.jobs.read(JOB), JobState.EXPIRED, epoch)
    ledger.shards.end_attempt(second, delay_s=0, blame=False)
    assert not ledger.jobs.finish(ledger.jobs.read(JOB), JobState.CANCELLED, epoch)
    assert ledger.jobs.finish(ledger.jobs.read(JOB), JobState.EXPIRED, epoch)
    assert (ledger.jobs.read(JOB).first.rows_done, ledger.jobs.live()) == (5, [])


@pytest.mark.parametrize("key", [None, "mine"])
def test_a_deleted_job_leaves_nothing_but_what_it_cost(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str, key: str | None
) -> None:
    before = all_keys(redis_client, prefix)
    submit(ledger, key)
    plan(ledger, epoch, 2)
    done, put_back = queue(ledger, epoch, 0), queue(ledger, epoch, 1)
    assert done
    assert put_back
    claim(ledger, done)
    claim(ledger, put_back)
    ledger.shards.commit(done, Completion(rows=5, rows_dead=0, nbytes=4, inline=b"rows"))
    ledger.jobs.stop(JOB, JobState.CANCELLING, None)
    ledger.shards.end_attempt(put_back, delay_s=0, blame=False)
    assert ledger.jobs.finish(ledger.jobs.read(JOB), JobState.CANCELLED, epoch)
    ledger.retention.mark_for_deletion(JOB)
    ledger.retention.mark_for_deletion(JOB)
    assert ledger.retention.forget(JOB)
    assert ledger.retention.forget(JOB)
    costs = {f"costs:{what}" for what in ("tenants", "pools", "days")}
    assert all_keys(redis_client, prefix) == before | costs
    with pytest.raises(NotFound):
        ledger.retention.mark_for_deletion(JOB)
    submit(ledger, key)
    assert ledger.jobs.read(JOB).state is JobState.PENDING


def test_an_idempotency_key_that_another_job_has_by_now_outlives_the_first(
    ledger: Ledger, epoch: int, redis_client: redis.Redis
) -> None:
    submit(ledger, "mine")
    ledger.jobs.stop(JOB, JobState.CANCELLING, None)
    ledger.jobs.finish(ledger.jobs.read(JOB), JobState.CANCELLED, epoch)
    redis_client.delete(ledger._store.keys.idempotency("mine"))  # as a day later
    second = Submission("job-2", spec_of(operator="echo"), "other", "mine")
    ledger.jobs.submit(second, max_live_jobs=10)
    ledger.retention.mark_for_deletion(JOB)
    assert ledger.retention.forget(JOB)
    assert ledger.jobs.known_under("mine") == ("job-2", "other")


@pytest.mark.parametrize("state", [state for state in JobState if not state.is_final])
def test_a_job_that_has_not_ended_is_not_deleted(ledger: Ledger, epoch: int, state: JobState) -> None:
    bring_to(ledger, state, epoch)
    with pytest.raises(Conflict, match=rf"{JOB} has not ended \({state}\)"):
        ledger.retention.mark_for_deletion(JOB)
    assert not ledger.retention.forget(JOB)
    assert ledger.jobs.read(JOB).state is state


@pytest.mark.parametrize("state", [state for state in JobState if state.is_final])
def test_ended_jobs_are_due_when_their_time_is_over_or_they_are_marked(
    ledger: Ledger, now: Ledger, epoch: int, state: JobState
) -> None:
    bring_to(now, state, epoch)
    assert not ledger.retention.forget(JOB)
    assert ledger.retention.due(START_MS + 59_999, 60) == []
    assert ledger.retention.due(START_MS + 60_000, 60) == [JOB]
    assert ledger.retention.due(START_MS + 10**12, 0) == []
    ledger.retention.mark_for_deletion(JOB)
    assert ledger.retention.due(START_MS, 60) == ledger.retention.due(START_MS, 0) == [JOB]


def test_a_job_that_goes_on_after_its_end_is_not_due_until_it_ends_again(
    ledger: Ledger, now: Ledger, epoch: int, redis_client: redis.Redis
) -> None:
    bring_to(now, JobState.COMPLETED, epoch)
    redis_client.hset(ledger._store.keys.job(JOB), "state", "running")
    with pytest.raises(Conflict, match="running"):
        ledger.retention.mark_for_deletion(JOB)
    assert ledger.retention.due(START_MS + 10**12, 60) == []


def small(ledger: Ledger, epoch: int, job_id: str = JOB, **changes: object) -> ShardRef:
    """The running attempt of a job that was planned as it was accepted."""
    shard = Shard(job_id, 0, ShardId((0,)), 0, 5, (Slice(0, 0, 5, 5),))
    spec = spec_of(operator="echo", **changes)
    plan = OneShardPlan(shard, 10, "end")
    submission = Submission(job_id, spec, "digest", inline_rows=b"rows", rows_total=5, plan=plan)
    ledger.jobs.submit(submission, max_live_jobs=10)
    ref = ledger.shards.queue(job_id, ledger.jobs.read(job_id).first, ShardId((0,)), epoch)
    assert ref is not None
    assert claim(ledger, ref)
    return ref


def test_the_last_commit_of_a_small_job_ends_it_and_a_leader_is_told_once(ledger: Ledger, epoch: int) -> None:
    ref = small(ledger, epoch)
    for _ in range(2):  # its answer may be lost
        assert ledger.shards.commit(ref, Completion(rows=4, rows_dead=1, nbytes=10))
    record = ledger.jobs.read(JOB)
    assert (record.state, record.is_settled, record.first.cursor) == (JobState.COMPLETED, True, "")
    assert (ledger.jobs.live(), ledger.jobs.inline_input(JOB)) == ([], None)
    assert ledger.index.to_finish(ledger.now_ms(), 9, ledger.now_ms()) == []
    assert ledger.jobs.take_unreported(9) == [EndedJob(JOB, "default", "echo", 4, 1)]
    assert ledger.jobs.take_unreported(9) == []
    ledger.retention.mark_for_deletion(JOB)


def test_a_small_job_is_ended_by_the_finisher_where_something_is_left_to_do(ledger: Ledger, epoch: int) -> None:
    with_output = small(ledger, epoch, output={"path": "/out"})
    with_checkpoint = small(ledger, epoch, "job-2")
    ledger.shards.end_attempt(with_checkpoint, delay_s=0, blame=True, checkpoint="blob")
    again = ledger.shards.queue("job-2", ledger.jobs.read("job-2").first, ShardId((0,)), epoch)
    assert again is not None
    assert claim(ledger, again)
    stopped = small(ledger, epoch, "job-3")
    ledger.jobs.stop("job-3", JobState.CANCELLING, None)
    for ref in (with_output, again, stopped):
        assert ledger.shards.commit(ref, DONE)
        assert not ledger.jobs.read(ref.job_id).state.is_final
    now_ms = ledger.now_ms()
    assert sorted(ledger.index.to_finish(now_ms, 9, now_ms)) == [JOB, "job-2", "job-3"]
    assert ledger.jobs.take_unreported(9) == []
