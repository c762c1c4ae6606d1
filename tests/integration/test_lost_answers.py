"""What must hold when Redis goes away in the middle of one call: before a script ran there, or after it did."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from batchmill.errors import OutcomeUnknown, ServiceUnavailable
from batchmill.fleet import WorkerInfo
from batchmill.jobs.files import UploadSource, upload_part
from batchmill.jobs.job import JobRequest, JobState, RetryPolicy
from batchmill.jobs.shard import FIRST_ROWS, ShardId
from batchmill.jobs.stage_cost import StageCost, stage_cost_name
from batchmill.ledger import jobs
from batchmill.ledger.submission import Submission
from batchmill.operators.contract import OperatorInfo
from batchmill.redis_access.connections import NotingRetry, ServerUnavailable
from batchmill.redis_access.replies import classify
from batchmill.settings import CoordinatorSettings, WorkerSettings
from batchmill.sources import InlineSource, InputSplit
from batchmill.storage.named_webhooks import NamedWebhooks
from batchmill.workspace import table_from_stream
from batchmill_coordinator.admission.acceptance import accept
from batchmill_coordinator.roles.dispatcher import Dispatcher
from batchmill_coordinator.roles.planner import Planner
from batchmill_coordinator.service import Service
from batchmill_worker.devices.placement import SlotIdentity
from batchmill_worker.runtime.attempt_result import AttemptStatus
from batchmill_worker.slot.wiring import build_slot_context
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill.jobs.shard import Shard, ShardRef
    from batchmill.ledger import JobRecord
    from batchmill_worker.slot.wiring import SlotContext

Lost = Literal["request", "answer"]
ROWS = 2_500
PART_ROWS = 500
RETRIES = 3
OPERATORS = [OperatorInfo(name=name, params_schema={}) for name in ("echo", "flaky")]


@pytest.fixture
def service(valkey_url: str, prefix: str, tmp_path: Path) -> Iterator[Service]:
    """A coordinator whose roles step when a test says so, with one worker in its ledger."""
    settings = CoordinatorSettings(
        redis_url=valkey_url,
        redis_prefix=prefix,
        blob_root=str(tmp_path),
        tokens=("secret",),
        shard_max_bytes=1_000,
    )
    service = Service(settings)
    worker = WorkerInfo(
        name="cpu0@here-1",
        pool="default",
        device="cpu",
        operators=["echo", "flaky"],
        shards_at_once=2,
        pid=1,
        started_at=time.time(),
    )
    service.ledger.fleet.announce(worker, OPERATORS, 60.0, changed=True)
    service.leadership.renew()
    pools = (service._inspectors, service._planning_inspectors)
    for pool in pools:
        pool.start()
    yield service
    for pool in pools:
        pool.stop()
    service.ledger.close()


@contextmanager
def lost(service: Service, script: str, what: Lost, *, times: int = 1) -> Iterator[None]:
    """Redis goes away as `script` is called."""
    store, left = service.ledger._store, iter(range(times))
    run = store.run

    def run_or_lose(name: str, *rest: Any) -> Any:
        if name != script or next(left, None) is None:
            return run(name, *rest)
        if what == "answer":
            run(name, *rest)
        raise ServiceUnavailable("the ledger's Redis cannot be reached (ConnectionError).")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "run", run_or_lose)
        patch.setattr(jobs, "ASKING", Retry(NoBackoff(), RETRIES, supported_errors=(ServiceUnavailable,)))
        yield
    assert next(left, None) is None, f"{script!r} was not called {times} times"


def uploaded(service: Service) -> UploadSource:
    """Rows that take many shards, and more than one step to plan."""
    source = UploadSource(upload=service.uploads.begin("default"), parts=ROWS // PART_ROWS)
    for number in range(source.parts):
        ids = range(number * PART_ROWS, (number + 1) * PART_ROWS)
        service.workspace.blobs.put_table(upload_part(source.upload, number), pa.table({"id": ids}))
    return source


def submit(service: Service) -> JobRecord:
    job_id = service.admission.admit(JobRequest(operator="echo", source=uploaded(service)), "default").job_id
    return service.ledger.jobs.read(job_id)


def plan(service: Service) -> None:
    """A step of the planner, as the leader; nobody else renews the lead, which a slow machine may have lost."""
    service.leadership.renew()
    planner(service).step(service.leadership.epoch)


def begin(service: Service, job_id: str) -> JobRecord:
    """Let the planner plan the first rows of a job."""

    def is_begun() -> bool:
        plan(service)
        return service.ledger.jobs.read(job_id).first.rows_planned > 0

    until(is_begun, "the first rows in the plan")
    return service.ledger.jobs.read(job_id)


def planner(service: Service) -> Planner:
    return next(thread._role for thread in service._roles if isinstance(thread._role, Planner))


@pytest.mark.parametrize("what", ["request", "answer"])
def test_a_step_of_the_planner_that_redis_did_not_answer_leaves_no_row_out(service: Service, what: Lost) -> None:
    job = submit(service)
    first = begin(service, job.id)
    assert first.first.rows_planned < ROWS
    empty_the_horizon(service, first)
    with lost(service, "plan", what), pytest.raises(ServiceUnavailable):
        plan(service)
    plan_the_rest(service, job.id)
    planned = service.ledger.jobs.read(job.id)
    assert (planned.first.rows_planned, planned.state) == (ROWS, JobState.RUNNING)


def test_a_source_that_ends_before_all_its_rows_are_planned_fails_the_job(service: Service) -> None:
    job = submit(service)
    empty_the_horizon(service, begin(service, job.id))
    opened = planner(service)._open_sources.get((job.id, 0))
    assert opened is not None
    splitter = opened.splitter
    assert isinstance(splitter.next_split(3, 1 << 20), InputSplit)
    plan_the_rest(service, job.id)
    failed = service.ledger.jobs.read(job.id)
    assert (failed.state, failed.first.planned) == (JobState.FAILING, False)
    assert failed.error is not None
    assert "rows, 2,500 were expected" in failed.error.message


def empty_the_horizon(service: Service, job: JobRecord) -> None:
    """Make room for new shards, as commits would."""
    service.ledger._store.redis.hset(service.ledger._store.keys.stage(job.id, 0), "shards_live", 0)
    service.ledger.index.rebuild([job.id])


def plan_the_rest(service: Service, job_id: str) -> None:
    def is_planned() -> bool:
        record = service.ledger.jobs.read(job_id)
        if record.first.planned or record.state not in (JobState.PENDING, JobState.RUNNING):
            return True
        empty_the_horizon(service, record)
        plan(service)
        return False

    until(is_planned, "the plan of the other rows")


@pytest.mark.parametrize("what", ["request", "answer"])
def test_a_submission_that_redis_did_not_answer_is_asked_for_again(service: Service, what: Lost) -> None:
    with lost(service, "submit", what, times=RETRIES):
        job = submit(service)
    assert [record.id for record in service.ledger.jobs.live()] == [job.id]
    plan_from_the_start(service, job.id)


@pytest.mark.parametrize("what", ["request", "answer"])
def test_a_job_that_nobody_knows_to_be_accepted_keeps_its_rows(service: Service, what: Lost) -> None:
    request = JobRequest(operator="echo", source=uploaded(service), idempotency_key="once")
    with lost(service, "submit", what, times=RETRIES + 1), pytest.raises(OutcomeUnknown, match="not known"):
        service.admission.admit(request, "default")
    is_accepted = what == "answer"
    assert len(service.ledger.jobs.live()) == is_accepted
    job_id, is_new, _ = service.admission.admit(request, "default")
    assert is_new != is_accepted
    assert [record.id for record in service.ledger.jobs.live()] == [job_id]
    plan_from_the_start(service, job_id)


def plan_from_the_start(service: Service, job_id: str) -> None:
    plan(service)
    plan_the_rest(service, job_id)
    assert service.ledger.jobs.read(job_id).first.rows_planned == ROWS


@pytest.mark.parametrize("what", ["request", "answer"])
def test_a_small_job_is_planned_once_as_it_is_accepted(service: Service, what: Lost) -> None:
    with lost(service, "submit", what):
        job = submit_rows(service, FIRST_ROWS)
    stage = job.first
    assert (job.state, stage.planned, stage.rows_total) == (JobState.RUNNING, True, FIRST_ROWS)
    assert (stage.rows_planned, stage.shards_planned, stage.shards_live) == (FIRST_ROWS, 1, 1)
    plan(service)
    assert service.ledger.jobs.read(job.id) == job
    claim = service.ledger.shards.claim(queue_first(service, job.id), "default", "w", 10_000, with_job=True)
    assert claim is not None
    assert InlineSource(table_from_stream(claim.inline_rows)).read(claim.shard.slices)["id"].to_pylist() == [
        *range(FIRST_ROWS)
    ]


def test_a_job_of_more_rows_than_a_first_shard_waits_for_the_planner(service: Service) -> None:
    job = submit_rows(service, FIRST_ROWS + 1)
    assert (job.state, job.first.shards_planned) == (JobState.PENDING, 0)
    plan(service)
    planned = service.ledger.jobs.read(job.id).first
    assert (planned.planned, planned.rows_planned, planned.shards_planned) == (True, FIRST_ROWS + 1, 2)


@pytest.mark.parametrize(("cost_s", "is_cheap"), [(1e-5, True), (1e-3, False)])
def test_rows_that_are_known_to_cost_next_to_nothing_begin_in_larger_shards(
    service: Service, cost_s: float, is_cheap: bool
) -> None:
    stage, rows = JobRequest(operator="echo").spec().first, FIRST_ROWS + 36
    service.ledger.profiles.write(stage_cost_name(stage, OPERATORS[0].version), StageCost(0.0, cost_s).to_text())
    inline, uploads = submit_rows(service, rows), submit(service)
    assert inline.first.rows_planned == (rows if is_cheap else 0)
    plan(service)
    assert first_shard(service, inline.id).rows == (rows if is_cheap else FIRST_ROWS)
    begin(service, uploads.id)
    assert (first_shard(service, uploads.id).rows > FIRST_ROWS) == is_cheap


def first_shard(service: Service, job_id: str) -> Shard:
    shard = service.ledger.shards.read(queue_first(service, job_id))
    assert shard is not None
    return shard


def submit_rows(service: Service, rows: int) -> JobRecord:
    request = JobRequest(operator="echo", rows=[{"id": n} for n in range(rows)])
    job_id, is_new, _ = service.admission.admit(request, "default")
    assert is_new
    return service.ledger.jobs.read(job_id)


def test_what_was_stored_for_a_job_goes_if_it_is_refused_or_was_known_already(service: Service) -> None:
    undone: list[str] = []
    for key, expected in (("new", []), ("known", ["known"])):
        with ExitStack() as undo:
            undo.callback(undone.append, key)
            accept(service.ledger, submission(service, f"job-{key}"), undo, service.settings, NamedWebhooks())
        assert undone == expected
    with ExitStack() as undo:
        undo.callback(undone.append, "refused")
        refused = replace(submission(service, "job-refused"), idempotency_key=None)
        with pytest.raises(ServiceUnavailable, match="1 jobs"):
            accept(
                service.ledger, refused, undo, service.settings.model_copy(update={"max_live_jobs": 1}), NamedWebhooks()
            )
    assert undone == ["known", "refused"]


def submission(service: Service, job_id: str) -> Submission:
    request = JobRequest(operator="echo", source=uploaded(service))
    return Submission(job_id=job_id, spec=request.spec(), digest="d", idempotency_key="once")


def test_what_a_worker_kept_of_a_shard_outlives_an_answer_that_was_lost(
    service: Service, valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    settings = WorkerSettings(
        redis_url=valkey_url,
        redis_prefix=prefix,
        blob_root=str(tmp_path),
        operators=("support.operators.mill_operators",),
    )
    identity = SlotIdentity(
        name="cpu0@here-1", slot=0, device="cpu", device_type="cpu", device_count=1, memory_bytes=None
    )
    context = build_slot_context(settings, identity, tmp_path / "note")
    context.heartbeat.start()
    try:
        log = tmp_path / "log"
        log.mkdir()
        retry = RetryPolicy(max_attempts=3, backoff_s=0)
        job_id = service.admission.admit(
            JobRequest(
                operator="flaky",
                rows=[{"id": n} for n in range(1, 10)],
                params={"log": str(log), "failures": 1},
                retry=retry,
            ),
            "default",
        ).job_id
        plan(service)
        with answered_again(context, "end_attempt"):
            result = context.runner.run(queue_first(service, job_id))
        assert result.status is AttemptStatus.DROPPED
        assert service.ledger.jobs.read(job_id).shards_running == 0
        result = context.runner.run(queue_first(service, job_id))
        assert result.status is AttemptStatus.SETTLED
        assert service.ledger.jobs.read(job_id).first.rows_done == 9
        assert {path.name: path.read_text() for path in log.glob("*.done")} == {f"{n}.done": "x" for n in range(1, 10)}
    finally:
        context.heartbeat.stop()
        context.close()


def queue_first(service: Service, job_id: str) -> ShardRef:
    record = service.ledger.jobs.read(job_id)
    ref = service.ledger.shards.queue(record.id, record.first, ShardId((0,)), service.leadership.epoch)
    assert ref is not None
    return ref


@contextmanager
def answered_again(context: SlotContext, script: str) -> Iterator[None]:
    """The answer to `script` is lost, and the client asks again, as it does by itself."""
    run = context.ledger._store.run

    def run_again(name: str, *rest: Any) -> Any:
        if name == script:
            run(name, *rest)
        return run(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.ledger._store, "run", run_again)
        yield


def test_a_retry_that_was_due_by_a_clock_ahead_leaves_the_stages_that_are_ready(service: Service) -> None:
    ledger, epoch = service.ledger, service.leadership.epoch
    job_id = service.admission.admit(JobRequest(operator="echo", rows=[{"id": 1}]), "default").job_id
    ref = ledger.shards.queue(job_id, ledger.jobs.read(job_id).first, ShardId((0,)), epoch)
    assert ref is not None
    assert ledger.shards.claim(ref, "default", "worker claim", 60_000, with_job=False) is not None
    ledger.shards.end_attempt(ref, delay_s=0, blame=False)
    in_ten_days = ledger.now_ms() + 864_000_000
    ledger._store.redis.zadd(ledger._store.keys.waiting(job_id, 0), {"0": in_ten_days})
    assert ledger.index.late_retries(in_ten_days - 1, 9) == []
    dispatcher = next(thread._role for thread in service._roles if isinstance(thread._role, Dispatcher))
    service.leadership.renew()
    dispatcher.step(service.leadership.epoch)
    assert ledger.index.late_retries(in_ten_days - 1, 9) == [(job_id, 0)]


def test_a_submission_that_redis_refused_is_known_to_be_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ASKING", Retry(NoBackoff(), 1, (ServiceUnavailable,)))
    request = JobRequest(operator="echo", source=uploaded(service))
    client = service.ledger.jobs._store.redis
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(ServiceUnavailable, match="NOREPLICAS") as caught:
            service.admission.admit(request, "default")
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert (caught.value.code, caught.value.is_unexecuted) == ("service_unavailable", True)
    _, is_new, _ = service.admission.admit(request, "default")  # its upload is still there
    assert is_new


def test_a_refusal_after_a_lost_answer_leaves_the_outcome_unknown() -> None:
    out_of_memory = ServerUnavailable(classify("OOM command not allowed when used memory > 'maxmemory'."))
    answers: list[Exception] = [redis.TimeoutError("no answer"), out_of_memory]

    def ask() -> None:
        raise answers.pop(0)

    with pytest.raises(ServerUnavailable):
        NotingRetry(NoBackoff(), 1).call_with_retry(ask, lambda _: None)
    assert not out_of_memory.is_unexecuted
