"""The ledger's scripts on a real Valkey, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.errors import Conflict, NotFound, ServiceUnavailable, StaleToken
from batchmill.jobs.completion import Completion, DeadLimit
from batchmill.jobs.cost import Parts
from batchmill.jobs.job import JobError, JobState
from batchmill.jobs.shard import Shard, ShardId, ShardRef, ShardState, Slice
from batchmill.ledger import JobRecord, Ledger
from batchmill.ledger.formats.settlement import Settled, SplitUp
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import Acceptance, FirstPlace, OneShardPlan, QueuedShard, Submission
from support.ledger_steps import LEASE_MS, SPEC, claim, plan, queue_one, submit, to_queue

if TYPE_CHECKING:
    import redis


@pytest.fixture
def running(ledger: Ledger, epoch: int) -> ShardRef:
    """The first attempt of the only shard of a job."""
    submit(ledger)
    plan(ledger, epoch, [5])
    ref = queue_one(ledger, epoch)
    claim(ledger, ref)
    return ref


def at(ledger: Ledger, client: redis.Redis, prefix: str, later_ms: int) -> Ledger:
    """The same ledger at a later time."""
    return Ledger(client, prefix, now_ms=ledger.now_ms() + later_ms)


def test_a_job_goes_all_the_way_and_leaves_only_what_its_results_need(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    submit(ledger, inline_rows=b"rows")
    assert plan(ledger, epoch, [5, 7]) == "ok"
    for number in range(2):
        ref = queue_one(ledger, epoch, number)
        claim(ledger, ref)
        assert ledger.shards.commit(ref, Completion(rows=4, rows_dead=1, nbytes=10, busy_s=0.5))
    assert ledger.jobs.finish(ledger.jobs.read("job-1"), JobState.COMPLETED, epoch)
    record = ledger.jobs.read("job-1")
    stage = record.first
    assert (record.state, stage.rows_done, record.rows_dead) == (JobState.COMPLETED, 8, 2)
    assert (stage.shards_live, stage.shards_running, stage.shards_queued, stage.shards_done) == (0, 0, 0, 2)
    assert (stage.busy_us, stage.rows_timed) == (1_000_000, 10)
    left = {key.decode().removeprefix(prefix) for key in redis_client.scan_iter(f"{prefix}job:*")}
    assert left == {"job:{job-1}", "job:{job-1}:stage:0", "job:{job-1}:done:0"}
    assert ledger.jobs.live() == []


def test_submitting_again_with_the_same_job_id_is_one_acceptance(ledger: Ledger, epoch: int) -> None:
    asked = Submission("job-1", SPEC, "digest", inline_rows=b"rows", idempotency_key="once")
    for _ in range(2):
        assert ledger.jobs.submit(asked, max_live_jobs=1) == Acceptance("job-1", is_new=True)
    plan(ledger, epoch, [5])
    assert ledger.jobs.submit(asked, max_live_jobs=1) == Acceptance("job-1", is_new=True)
    assert ledger.jobs.read("job-1").first.rows_planned == 5
    assert [record.id for record in ledger.jobs.live()] == ["job-1"]


def test_the_only_shard_of_a_job_is_queued_with_it_if_a_worker_is_free_and_nothing_waits(
    ledger: Ledger, epoch: int
) -> None:
    def ask(job_id: str, below: int) -> Acceptance:
        shard = Shard(job_id, 0, ShardId((0,)), 0, 1, (Slice(0, 0, 1, 1),))
        place = FirstPlace("pool.default/model", below)
        asked = Submission(job_id, SPEC, "d", rows_total=1, plan=OneShardPlan(shard, 10, "end"), place=place)
        return ledger.jobs.submit(asked, max_live_jobs=10)

    ref = ShardRef("job-1", 0, ShardId((0,)), 1)
    assert ask("job-1", 1) == Acceptance("job-1", is_new=True, queued=QueuedShard(ref, "pool.default/model"))
    assert ask("job-1", 1).queued is None  # asked again: the recoverer publishes a message that nobody claims
    assert ask("job-2", 1).queued is None  # the only worker has work
    assert ask("job-3", 9).queued is None  # job-2 waits
    waiting = ledger.jobs.read("job-2").first
    assert ledger.shards.queue("job-2", waiting, ShardId((0,)), epoch) is not None
    assert ledger.shards.queue("job-3", ledger.jobs.read("job-3").first, ShardId((0,)), epoch) is not None
    assert ask("job-4", 3).queued is None
    assert ask("job-5", 9).queued is None  # job-4 waits
    assert claim(ledger, ref).token == 1


def test_a_claim_gives_the_plan_and_on_request_the_job(ledger: Ledger, epoch: int) -> None:
    submit(ledger, inline_rows=b"rows")
    plan(ledger, epoch, [5])
    claimed = ledger.shards.claim(queue_one(ledger, epoch), "default", "w1", LEASE_MS, with_job=True)
    assert claimed is not None
    assert (claimed.spec, claimed.inline_rows) == (SPEC, b"rows")
    assert claimed.shard == Shard(
        "job-1", 0, ShardId((0,)), 0, 5, (Slice(0, 0, 5, 5),), state=ShardState.RUNNING, token=1
    )


def test_of_two_workers_with_one_message_only_one_gets_the_shard(ledger: Ledger, running: ShardRef) -> None:
    with pytest.raises(StaleToken):
        claim(ledger, running, holder="w2")


def test_a_claim_whose_reply_was_lost_can_be_asked_again(ledger: Ledger, running: ShardRef) -> None:
    assert claim(ledger, running, holder="w1").token == 1
    assert ledger.jobs.read("job-1").shards_running == 1


def test_a_commit_whose_reply_was_lost_can_be_asked_again(ledger: Ledger, running: ShardRef) -> None:
    completion = Completion(rows=5, rows_dead=0, nbytes=10)
    assert ledger.shards.commit(running, completion)
    assert ledger.shards.commit(running, completion)
    assert ledger.jobs.read("job-1").first.rows_done == 5


def test_the_commit_of_an_attempt_that_lost_its_shard_changes_nothing(
    ledger: Ledger, running: ShardRef, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    later = at(ledger, redis_client, prefix, LEASE_MS + 1)
    assert later.shards.expired(later.now_ms()) == [running]
    assert later.shards.expire_attempt(running, epoch, delay_s=0) == "ok"
    second = queue_one(later, epoch)
    assert second.token == 2
    claim(later, second, holder="w2")
    with pytest.raises(StaleToken):
        later.shards.commit(running, Completion(rows=99, rows_dead=0, nbytes=1))
    with pytest.raises(StaleToken):
        later.shards.end_attempt(running, delay_s=0, blame=True)
    assert later.shards.commit(second, Completion(rows=5, rows_dead=0, nbytes=10))
    with pytest.raises(StaleToken):
        later.shards.commit(running, Completion(rows=99, rows_dead=0, nbytes=1))
    assert ledger.jobs.read("job-1").first.rows_done == 5


def test_a_renewed_lease_is_not_taken_away(
    ledger: Ledger, running: ShardRef, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    later = at(ledger, redis_client, prefix, LEASE_MS - 1)
    assert later.shards.renew([running], LEASE_MS) == ["ok"]
    expired = at(ledger, redis_client, prefix, LEASE_MS + 1)
    assert expired.shards.expired(expired.now_ms()) == []
    assert expired.shards.expire_attempt(running, epoch, delay_s=0) == "alive"


def test_renewing_tells_of_lost_leases_and_stopped_jobs(ledger: Ledger, running: ShardRef) -> None:
    stranger = ShardRef("job-1", 0, ShardId((0,)), 7)
    ledger.jobs.stop("job-1", JobState.CANCELLING, None)
    assert ledger.shards.renew([running, stranger], LEASE_MS) == ["stopped", "lost"]


def test_a_late_commit_counts_while_nobody_else_has_the_shard(
    ledger: Ledger, running: ShardRef, redis_client: redis.Redis, prefix: str
) -> None:
    later = at(ledger, redis_client, prefix, 10 * LEASE_MS)
    assert later.shards.commit(running, Completion(rows=5, rows_dead=0, nbytes=10))


def test_a_failed_attempt_waits_for_its_time(ledger: Ledger, running: ShardRef) -> None:
    ledger.shards.end_attempt(running, delay_s=30, blame=True)
    now_ms = ledger.now_ms()
    assert to_queue(ledger, "job-1", 10, now_ms + 29_000) == []
    assert to_queue(ledger, "job-1", 10, now_ms + 30_000) == [ShardId((0,))]
    shard = ledger.shards.read(running)
    assert shard is not None
    assert (shard.state, shard.failures, shard.losses) == (ShardState.WAITING, 1, 0)


def test_a_final_failure_stops_the_job_with_the_first_error(ledger: Ledger, running: ShardRef, epoch: int) -> None:
    error = JobError(code="operator_failed", message="first")
    ledger.shards.end_attempt(running, delay_s=0, blame=True, stop_with=error)
    assert ledger.jobs.stop("job-1", JobState.FAILING, JobError(code="x", message="second")) is JobState.FAILING
    record = ledger.jobs.read("job-1")
    assert (record.state, record.error) == (JobState.FAILING, error)
    assert ledger.jobs.finish(record, JobState.FAILED, epoch)


def test_a_stopping_job_gives_no_work_and_ends_when_its_workers_have_let_go(
    ledger: Ledger, running: ShardRef, epoch: int
) -> None:
    ledger.jobs.stop("job-1", JobState.CANCELLING, None)
    assert not ledger.jobs.finish(ledger.jobs.read("job-1"), JobState.CANCELLED, epoch)
    ledger.shards.end_attempt(running, delay_s=0, blame=False)
    assert ledger.shards.queue("job-1", ledger.jobs.read("job-1").first, ShardId((0,)), epoch) is None
    assert ledger.jobs.finish(ledger.jobs.read("job-1"), JobState.CANCELLED, epoch)
    assert ledger.jobs.stop("job-1", JobState.CANCELLING, None) is JobState.CANCELLED


def test_a_queued_attempt_of_a_stopped_job_is_not_claimed_and_is_forgotten_at_its_end(
    ledger: Ledger, epoch: int
) -> None:
    submit(ledger)
    plan(ledger, epoch, [5, 5])
    ref = queue_one(ledger, epoch)
    ledger.jobs.stop("job-1", JobState.CANCELLING, None)
    assert ledger.shards.claim(ref, "default", "w1", LEASE_MS, with_job=False) is None
    assert [queued for queued, _ in ledger.shards.queued("default")] == [ref]
    assert ledger.jobs.finish(ledger.jobs.read("job-1"), JobState.CANCELLED, epoch)
    assert ledger.shards.queued("default") == []


def test_a_cursor_that_moved_meanwhile_refuses_the_plan(ledger: Ledger, epoch: int) -> None:
    submit(ledger)
    stale = ledger.jobs.read("job-1")
    assert plan(ledger, epoch, [5], at_end=False) == "ok"
    step = PlanStep([], [], "elsewhere", at_end=True, total=None)
    assert ledger.shards.plan("job-1", stale.first, step, epoch) == "moved"
    assert plan(ledger, epoch, [5], at_end=True) == "ok"
    assert plan(ledger, epoch, [5], at_end=True) == "moved"
    assert ledger.jobs.read("job-1").first.shards_planned == 2


def test_a_deposed_leader_writes_nothing(ledger: Ledger, epoch: int) -> None:
    submit(ledger)
    plan(ledger, epoch, [5])
    ref = queue_one(ledger, epoch)
    claim(ledger, ref)
    before = ledger.jobs.read("job-1")
    ledger.resign("me")
    assert ledger.lead("other", 60) == epoch + 1
    assert plan(ledger, epoch, [5], at_end=False) == "deposed"
    assert ledger.shards.queue("job-1", before.first, ShardId((0,)), epoch) is None
    assert ledger.shards.expire_attempt(ref, epoch, delay_s=0) == "deposed"
    assert not ledger.jobs.finish(before, JobState.COMPLETED, epoch)
    assert ledger.jobs.read("job-1") == before


def test_a_lead_that_was_taken_before_the_clock_went_back_does_not_last(ledger: Ledger) -> None:
    first = ledger.lead("one", 10)
    key = ledger._store.keys.leader()
    ledger._store.redis.pexpire(key, 20_000)
    assert ledger.lead("two", 10) == 0
    ledger._store.redis.pexpire(key, 86_400_000)  # what is left of a short lease by a clock that was ahead
    second = ledger.lead("two", 10)
    assert second > first
    assert ledger.lead("one", 10) == 0


def test_a_coordinator_with_a_short_lease_does_not_depose_one_with_a_long_lease(ledger: Ledger) -> None:
    first = ledger.lead("one", 60)
    assert ledger.lead("two", 5) == 0
    assert ledger.lead("one", 60) == first


def test_one_leads_until_it_resigns(ledger: Ledger) -> None:
    first = ledger.lead("a", 60)
    assert ledger.lead("a", 60) == first
    assert ledger.lead("b", 60) == 0
    ledger.resign("b")
    assert ledger.probe()
    ledger.resign("a")
    assert ledger.lead("b", 60) == first + 1


def no_key_expires(ledger: Ledger) -> bool:
    redis = ledger._store.redis
    return all(redis.ttl(key) == -1 for key in redis.scan_iter("*idempotency*"))


def test_an_idempotency_key_gives_the_same_job_and_refuses_another_request(ledger: Ledger) -> None:
    assert submit(ledger, "job-1", idempotency_key="k") == "job-1"
    assert submit(ledger, "job-2", idempotency_key="k") == "job-1"
    assert ledger.jobs.known_under("k") == ("job-1", "digest")
    with pytest.raises(Conflict, match="job-1"):
        submit(ledger, "job-3", idempotency_key="k", digest="different")
    assert no_key_expires(ledger), "Redis' clock may jump: a key that it forgot would make a job a second time"
    with pytest.raises(NotFound):
        ledger.jobs.read("job-2")


def test_too_many_live_jobs_are_refused_with_what_to_do(ledger: Ledger) -> None:
    submit(ledger, "job-1")
    with pytest.raises(ServiceUnavailable, match="BATCHMILL_MAX_LIVE_JOBS"):
        ledger.jobs.submit(Submission("job-2", SPEC, "d"), max_live_jobs=1)


def test_jobs_are_listed_newest_first_page_by_page(ledger: Ledger, redis_client: redis.Redis, prefix: str) -> None:
    for number in range(5):
        submit(Ledger(redis_client, prefix, now_ms=1000 + number), f"job-{number}")
    first = [record.id for record in ledger.jobs.newest(2)]
    second = [record.id for record in ledger.jobs.newest(10, before=first[-1])]
    assert first + second == ["job-4", "job-3", "job-2", "job-1", "job-0"]


def test_inline_results_stay_within_their_room(ledger: Ledger, epoch: int) -> None:
    submit(ledger)
    plan(ledger, epoch, [5, 5])
    first, second = queue_one(ledger, epoch, 0), queue_one(ledger, epoch, 1)
    claim(ledger, first)
    claim(ledger, second)
    assert ledger.shards.commit(first, Completion(5, 0, 40_000, inline=b"x" * 40_000))
    assert not ledger.shards.commit(second, Completion(5, 0, 40_000, inline=b"y" * 40_000))
    assert ledger.shards.commit(second, Completion(5, 0, 40_000))
    ids = [ShardId((0,)), ShardId((1,))]
    assert ledger.results.inline_results("job-1", 0, ids) == [b"x" * 40_000, None]
    assert [
        isinstance(settled, Settled) and settled.token
        for settled in ledger.results.settled("job-1", 0, [*ids, ShardId((2,))])
    ] == [1, 1, False]


@pytest.mark.slow
def test_what_a_finished_shard_costs_is_at_most_a_hundred_bytes(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    submit(ledger)
    count = 2_000
    for first in range(0, count, 200):
        plan(ledger, epoch, [500] * 200, at_end=first + 200 == count)
        for number in range(first, first + 200):
            ref = queue_one(ledger, epoch, number)
            claim(ledger, ref)
            ledger.shards.commit(ref, Completion(500, 0, 1_000_000))
    used = sum(redis_client.memory_usage(key, samples=0) or 0 for key in redis_client.scan_iter(f"{prefix}*"))
    assert used / count < 100


def test_an_unreachable_server_is_told_in_plain_words(tmp_path: object) -> None:
    from batchmill.ledger.scripting.connection import connect

    with pytest.raises(ServiceUnavailable, match=r"the ledger.s Redis cannot be reached"):
        Ledger(connect(f"unix://{tmp_path}/none?db=0"), "x:").ping()


def test_uploads_are_taken_once_and_swept_when_nobody_takes_them(
    ledger: Ledger, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    ledger.uploads.begin("upl-a")
    ledger.uploads.begin("upl-b")
    later = at(ledger, redis_client, prefix, 10_000)
    assert later.uploads.expire(epoch, 60) == []
    assert sorted(later.uploads.expire(epoch, 5)) == ["upl-a", "upl-b"]
    assert not ledger.uploads.is_open("upl-a")
    with pytest.raises(ServiceUnavailable):
        ledger.uploads.begin("upl-c", max_uploads=0)


def test_records_of_jobs_that_are_gone_are_left_out(ledger: Ledger) -> None:
    submit(ledger)
    found: list[JobRecord] = ledger.jobs.read_many(["job-1", "job-none"])
    assert [record.id for record in found] == ["job-1"]


def test_a_split_shard_is_settled_by_its_halves_in_input_order(
    ledger: Ledger, running: ShardRef, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    later = at(ledger, redis_client, prefix, LEASE_MS + 1)
    shard = later.shards.read(running)
    assert shard is not None
    assert later.shards.split(shard, epoch) == "ok"
    assert later.shards.split(shard, epoch) == "stale"
    with pytest.raises(StaleToken):
        later.shards.commit(running, Completion(rows=5, rows_dead=0, nbytes=1))
    record = ledger.jobs.read("job-1")
    assert (record.shards_live, record.shards_running, record.first.shards_planned) == (2, 0, 1)
    names = to_queue(later, "job-1", 10, later.now_ms())
    assert names == [ShardId((0, 0)), ShardId((0, 1))]
    for shard_id in names:
        ref = later.shards.queue("job-1", ledger.jobs.read("job-1").first, shard_id, epoch)
        assert ref is not None
        half = claim(later, ref)
        assert half.losses == shard.losses
        assert later.shards.commit(ref, Completion(rows=half.rows, rows_dead=0, nbytes=1))
    (split,) = ledger.results.settled("job-1", 0, [ShardId((0,))])
    assert isinstance(split, SplitUp)
    parts = ledger.results.settled("job-1", 0, split.children())
    assert [part.rows for part in parts if isinstance(part, Settled)] == [2, 3]
    assert ledger.jobs.finish(ledger.jobs.read("job-1"), JobState.COMPLETED, epoch)


def test_what_an_attempt_kept_is_given_to_the_next(ledger: Ledger, running: ShardRef, epoch: int) -> None:
    ledger.shards.end_attempt(running, delay_s=0, blame=False, checkpoint="jobs/job-1/checkpoints/x")
    ref = queue_one(ledger, epoch)
    assert claim(ledger, ref).checkpoint == "jobs/job-1/checkpoints/x"
    ledger.shards.end_attempt(ref, delay_s=0, blame=False)
    assert claim(ledger, queue_one(ledger, epoch)).checkpoint == "jobs/job-1/checkpoints/x"


def test_what_a_running_attempt_saves_counts_if_it_is_lost(
    ledger: Ledger, running: ShardRef, epoch: int, redis_client: redis.Redis, prefix: str
) -> None:
    ledger.shards.save_checkpoint(running, "jobs/job-1/checkpoints/x")
    ledger.shards.save_checkpoint(running, "jobs/job-1/checkpoints/x")
    at(ledger, redis_client, prefix, 60_000).shards.expire_attempt(running, epoch, delay_s=0)
    with pytest.raises(StaleToken):
        ledger.shards.save_checkpoint(running, "jobs/job-1/checkpoints/late")
    assert claim(ledger, queue_one(ledger, epoch)).checkpoint == "jobs/job-1/checkpoints/x"


def test_a_shard_knows_how_long_it_has_waited_for_storage_in_a_row(
    ledger: Ledger, running: ShardRef, epoch: int
) -> None:
    used = Parts(useful=250_000)
    ledger.shards.end_attempt(running, delay_s=0, blame=False, stalled_by="the disk is full", used=used)
    ref = queue_one(ledger, epoch)
    assert claim(ledger, ref).stalled_s == 0.25
    assert ledger.jobs.read("job-1").stalled == "the disk is full"
    ledger.shards.end_attempt(ref, delay_s=0, blame=False, stalled_by="it is full", used=used)
    ref = queue_one(ledger, epoch)
    assert claim(ledger, ref).stalled_s == 0.5
    assert ledger.jobs.read("job-1").stalled == "it is full"
    ledger.shards.end_attempt(ref, delay_s=0, blame=False, checkpoint="jobs/job-1/checkpoints/x")
    assert claim(ledger, queue_one(ledger, epoch)).stalled_s == 0
    assert ledger.jobs.read("job-1").stalled == ""


@pytest.mark.parametrize(("most", "stops"), [(2.0, False), (1.0, True), (0.5, False), (0.3, True), (0.0, True)])
def test_too_many_dead_rows_stop_the_job(ledger: Ledger, running: ShardRef, most: float, *, stops: bool) -> None:
    limit = DeadLimit(most, JobError(code="too_many_dead", message="enough"))
    counted = (("ValueError", 1), ("KeyError", 1))
    assert ledger.shards.commit(running, Completion(3, 2, 1, dead_by_type=counted), limit)
    record = ledger.jobs.read("job-1")
    assert record.state is (JobState.FAILING if stops else JobState.RUNNING)
    assert (record.error is not None) is stops
