"""Jobs in the ledger: accepted, read, stopped, ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, assert_never

from redis.retry import Retry

from batchmill.backoff import Backoff
from batchmill.caches import Lru
from batchmill.errors import Conflict, NotFound, OutcomeUnknown, ServiceUnavailable
from batchmill.jobs.cost import NANO
from batchmill.jobs.job import JOB_MOVES, MAX_STAGES, JobState
from batchmill.jobs.shard import ShardRef, parse_shard_id
from batchmill.jobs.stages import FIRST_STAGE, stages_of
from batchmill.ledger.formats.documents import write_document, write_error
from batchmill.ledger.formats.encodings import EndedJob, Request, parse_ended, parse_request
from batchmill.ledger.formats.record import JobRecord, JobStage
from batchmill.ledger.formats.schema import SCHEMA
from batchmill.ledger.formats.unreadable import UnreadableJob
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import RedisBackoff, redis_errors
from batchmill.ledger.submission import accepted, ends_at_commit, is_new, new_stages, upload_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchmill.jobs.job import JobError
    from batchmill.ledger.formats.record import StageKey, StageRecord
    from batchmill.ledger.scripting.connection import Store
    from batchmill.ledger.submission import Acceptance, Submission

log = logging.getLogger(__name__)

MAX_REPORTED = 10_000
MAX_COUNTS = 100_000  # of stages, by job
ASKING = Retry(  # whether a job is accepted: for some seconds, as long as a server takes to start again
    RedisBackoff(Backoff(base_s=0.2, max_s=2.0)), retries=12, supported_errors=(ServiceUnavailable,)
)


class JobLedger:
    """Jobs: their creation, records, states and deletion."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._reported: Lru[str, str] = Lru(MAX_REPORTED)  # the unreadable jobs that were logged, and why
        self._counts: Lru[str, int] = Lru(MAX_COUNTS)  # of the stages of jobs with several: it never changes

    def submit(self, submission: Submission, *, max_live_jobs: int, max_tenant_jobs: int | None = None) -> Acceptance:
        """Accept a job; the caller publishes the message of a shard that was queued at once.

        Raises `InvalidRequest` for a job that could not be read back, `Conflict` when the key was used for another
        request, `InvalidSource` when the upload is unknown or taken, `ServiceUnavailable` when too many jobs are alive
        or the ledger is in another version's formats or refuses to write, `Overloaded` when the tenant has too many,
        and `OutcomeUnknown` when the ledger does not answer: then the job may have been accepted.
        """
        spec = submission.spec
        text = write_document(spec, "the job")

        def ask() -> calls.SubmitReply:
            return calls.submit(
                self._store,
                job_id=submission.job_id,
                schema=SCHEMA,
                spec=text,
                digest=submission.digest,
                idempotency_key=submission.idempotency_key,
                inline_rows=submission.inline_rows or None,
                upload=upload_of(submission),
                max_live_jobs=max_live_jobs,
                max_tenant_jobs=max_tenant_jobs,
                replay_of=submission.replay_of,
                resumed_from=submission.resumed_from,
                tenant=submission.tenant,
                budget_nano=None if spec.budget is None else round(spec.budget * NANO),
                priority=spec.priority,
                deadline_ms=None if spec.deadline_at is None else round(spec.deadline_at * 1000),
                ends_at_commit=ends_at_commit(submission),
                any_version=spec.any_version,
                announces=submission.announces,
                reads_stream=spec.stream is not None,
                stages=new_stages(submission),
            )

        attempts: list[Exception] = []
        try:
            reply = ASKING.call_with_retry(ask, attempts.append)
        except ServiceUnavailable as error:
            if all(isinstance(one, ServiceUnavailable) and one.is_unexecuted for one in attempts):
                raise
            raise OutcomeUnknown(
                f"whether job {submission.job_id} was accepted is not known: {error.message}",
                hint="Submit it again with the same idempotency key, or see whether the job is listed.",
                job=submission.job_id,
            ) from error
        return accepted(reply, submission, is_new=is_new(reply, submission, max_live_jobs, max_tenant_jobs))

    def known_under(self, idempotency_key: str) -> Request | None:
        """The job that was accepted under a key, or None."""
        with redis_errors():
            known = self._store.redis.get(self._keys.idempotency(idempotency_key))
        return parse_request(known) if known else None

    def read(self, job_id: str) -> JobRecord:
        """A job's record. Raises `NotFound` or `UnreadableRecord`."""
        found = self.find(job_id)
        if isinstance(found, UnreadableJob):
            raise found.error()
        return found

    def find(self, job_id: str) -> JobRecord | UnreadableJob:
        """A job's record, or what is known of it without. Raises `NotFound`."""
        found = self.find_many([job_id])
        if not found:
            raise no_such_job(job_id)
        return found[0]

    def read_many(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """The records of those of the jobs that exist and can be read; the others are logged, once each."""
        return self._apart(self.find_many(job_ids))[0]

    def _apart(self, found: Sequence[JobRecord | UnreadableJob]) -> tuple[list[JobRecord], list[UnreadableJob]]:
        unreadable = [one for one in found if isinstance(one, UnreadableJob)]
        for job in unreadable:
            if self._reported.get(job.id) != job.reason:
                self._reported.put(job.id, job.reason)
                log.error("job %s is set aside: %s", job.id, job.error())
        return [one for one in found if isinstance(one, JobRecord)], unreadable

    def find_many(self, job_ids: Sequence[str]) -> list[JobRecord | UnreadableJob]:
        """The records of those of the jobs that exist, each of one moment.

        In one round trip, and another one for those of several stages that are read for the first time.
        """
        expected = {job_id: self._counts.get(job_id) or 1 for job_id in job_ids}
        found = self._hashes(expected)
        counts = {job_id: _stage_count(hashes[0]) for job_id, hashes in found.items()}
        others = {job_id: count for job_id, count in counts.items() if count != expected[job_id]}
        for job_id, count in others.items():
            self._counts.put(job_id, count)
        found |= self._hashes(others)
        records = (_record(job_id, found[job_id]) for job_id in job_ids)
        return [record for record in records if record is not None]

    def _hashes(self, stages: Mapping[str, int]) -> dict[str, list[dict[bytes, bytes]]]:
        """The hash of each job, and those of as many of its stages, all of one moment."""
        if not stages:
            return {}
        with redis_errors(), self._store.redis.pipeline(transaction=True) as pipe:
            for job_id, count in stages.items():
                pipe.hgetall(self._keys.job(job_id))
                for stage in range(count):
                    pipe.hgetall(self._keys.stage(job_id, stage))
            replies = iter(pipe.execute())
        return {job_id: [next(replies) for _ in range(1 + count)] for job_id, count in stages.items()}

    def read_stages(self, keys: Iterable[StageKey]) -> list[JobStage]:
        """Those of the stages whose jobs exist and can be read, in their order; in as many trips as `find_many`."""
        wanted = list(dict.fromkeys(keys))
        jobs = {record.id: record for record in self.read_many(list(dict.fromkeys(job_id for job_id, _ in wanted)))}
        return [JobStage(jobs[job_id], jobs[job_id].stages[stage]) for job_id, stage in wanted if job_id in jobs]

    def live_ids(self) -> list[str]:
        """The ids of the jobs that have not ended, oldest first: all of them, so not for every step of a role."""
        with redis_errors():
            return [job_id.decode() for job_id in self._store.redis.zrange(self._keys.live_jobs(), 0, -1)]

    def live(self) -> list[JobRecord]:
        """The jobs that have not ended, oldest first, without those whose record cannot be read; see `live_ids`."""
        return self.read_many(self.live_ids())

    def live_replay_of(self, job_id: str) -> str | None:
        """A job that has not ended and replays this one; None: there is none. One field of each live job is read."""
        live, sought = self.live_ids(), job_id.encode()
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for one in live:
                pipe.hget(self._keys.job(one), "replay_of")
            return next((one for one, of in zip(live, pipe.execute(), strict=True) if of == sought), None)

    def readable_and_not(self, job_ids: Sequence[str]) -> tuple[list[JobRecord], list[UnreadableJob]]:
        """Those of the jobs that exist: those whose record can be read, and the others."""
        return self._apart(self.find_many(job_ids))

    def newest(self, limit: int, before: str | None = None) -> list[JobRecord | UnreadableJob]:
        """At most `limit` jobs, newest first, older than the job `before`. Raises `NotFound` for an unknown one."""
        client, jobs = self._store.redis, self._keys.jobs()
        with redis_errors():
            start = 0
            if before is not None:
                rank = client.zrevrank(jobs, before)
                if rank is None:
                    raise NotFound(f"there is no job {before!r}.", job=before)
                start = int(rank) + 1
            ids = client.zrevrange(jobs, start, start + limit - 1)
        return self.find_many([job_id.decode() for job_id in ids])

    def inline_input(self, job_id: str) -> bytes | None:
        """The rows of a small job, an Arrow stream."""
        with redis_errors():
            rows: bytes | None = self._store.redis.get(self._keys.inline_input(job_id))
        return rows

    def stop(
        self,
        job_id: str,
        state: Literal[JobState.CANCELLING, JobState.FAILING, JobState.EXPIRING],
        error: JobError | None,
    ) -> JobState:
        """Ask a job to stop; returns its state afterwards. Raises `NotFound`."""
        reply = calls.stop(self._store, job_id=job_id, state=state, error=write_error(error) if error else None)
        if reply.state is None:
            raise no_such_job(job_id)
        return reply.state

    def pause(self, job_id: str) -> None:
        """Pause a job. Raises `NotFound`, or `Conflict` when it is stopping or has ended."""
        reply = calls.pause(self._store, job_id=job_id)
        match reply.answer:
            case calls.PauseAnswer.OK:
                return
            case calls.PauseAnswer.NO_JOB:
                raise no_such_job(job_id)
            case calls.PauseAnswer.REFUSED:
                raise _cannot("paused", job_id, reply.state)
            case never:
                assert_never(never)

    def resume(self, job_id: str, budget: float | None = None, *, any_version: bool = False) -> None:
        """Resume a paused job; one that is not paused runs anyway. budget: its budget from now on; None: as before.

        any_version: continue with another version of its operators than it began with.

        Raises `NotFound`, or `Conflict` when it is stopping or has ended, or when it has cost its budget.
        """
        reply = calls.resume(
            self._store,
            job_id=job_id,
            budget_nano=None if budget is None else round(budget * NANO),
            any_version=any_version,
            stages=range(MAX_STAGES),
        )
        match reply.answer:
            case calls.ResumeAnswer.OK:
                return
            case calls.ResumeAnswer.NO_JOB:
                raise no_such_job(job_id)
            case calls.ResumeAnswer.REFUSED:
                raise _cannot("resumed", job_id, reply.state)
            case calls.ResumeAnswer.SPENT:
                raise _spent(self.read(job_id), budget)
            case never:
                assert_never(never)

    def drain(self, job_id: str) -> JobState:
        """Let a job over a stream end after what is planned; return its state.

        Raises `NotFound`, or `Conflict` when it is stopping or has ended.
        """
        reply = calls.drain(self._store, job_id=job_id, stage=FIRST_STAGE)
        match reply.answer:
            case calls.DrainAnswer.OK if reply.state is not None:
                return reply.state
            case calls.DrainAnswer.REFUSED:
                raise _cannot("drained", job_id, reply.state)
            case _:
                raise no_such_job(job_id)

    def unqueue_paused(self, record: JobRecord, stage: StageRecord, epoch: int) -> int:
        """Take the queued shards of a stage of a paused job back, as its leader; returns how many."""
        return calls.unqueue_paused(
            self._store,
            job_id=record.id,
            stage=stage.number,
            pool=stage.spec.pool,
            epoch=epoch,
            live=self._live_attempts(record.id, stage.number),
        )

    def finish(self, record: JobRecord, state: JobState, epoch: int) -> bool:
        """End a job in a final state, as its leader; False when it is not over yet or the leader is deposed."""
        live = [
            calls.LiveAttempt(stage.spec.pool, ref)
            for stage in record.stages
            if stage.shards_live
            for ref in self._live_attempts(record.id, stage.number)
        ]
        answer = calls.finish(
            self._store, epoch=epoch, job_id=record.id, state=state, stages=stages_of(record.spec), live=live
        )
        return answer is calls.FinishAnswer.OK

    def take_unreported(self, limit: int) -> list[EndedJob]:
        """Take at most `limit` of the jobs that their last commit ended, for the leader to count; the oldest first."""
        with redis_errors():
            return list(map(parse_ended, self._store.redis.lpop(self._keys.unreported(), limit) or []))

    def finish_unreadable(self, job: UnreadableJob, epoch: int) -> bool:
        """End a stopping job whose record cannot be read, as its leader; False while anything of it runs."""
        (state,) = JOB_MOVES[job.state] if job.state.is_stopping else (None,)
        if state is None:
            return False
        live = [
            calls.LiveAttempt(pool, ref)
            for stage, pool in enumerate(job.pools)
            for ref in self._live_attempts(job.id, stage)
        ]
        stages = range(len(job.pools))
        answer = calls.finish(self._store, epoch=epoch, job_id=job.id, state=state, stages=stages, live=live)
        return answer is calls.FinishAnswer.OK

    def _live_attempts(self, job_id: str, stage: int) -> list[ShardRef]:
        """The present attempt of every shard of a stage that is not settled; token 0 before the first."""
        keys = self._keys
        with redis_errors():
            names = self._store.redis.smembers(keys.live_shards(job_id, stage))
        live = [parse_shard_id(name.decode()) for name in names]
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for shard_id in live:
                pipe.hget(keys.shard(job_id, stage, shard_id), "token")
            tokens = pipe.execute()
        return [
            ShardRef(job_id, stage, shard_id, int(token or 0)) for shard_id, token in zip(live, tokens, strict=True)
        ]

    def dead_counts(self, job_id: str) -> dict[str, int]:
        """How many rows of a job died of which error."""
        with redis_errors():
            counts = self._store.redis.hgetall(self._keys.dead_counts(job_id))
        return {kind.decode(): int(count) for kind, count in counts.items()}


def _stage_count(job: Mapping[bytes, bytes]) -> int:
    return min(int(job.get(b"stage_count", b"1")), MAX_STAGES)


def _record(job_id: str, hashes: Sequence[dict[bytes, bytes]]) -> JobRecord | UnreadableJob | None:
    """Read a job's record from the hashes of the job and of its stages; None when there is no such job."""
    job, *stages = hashes
    if not job:
        return None
    try:
        return JobRecord.from_hashes(job_id, job, stages)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with one record must not hide the others
        return UnreadableJob.from_hashes(job_id, job, stages, error)


def no_such_job(job_id: str) -> NotFound:
    """The error for an id that no job has."""
    return NotFound(f"there is no job {job_id!r}.", hint="`batchmill jobs` lists the jobs.", job=job_id)


def _cannot(what: str, job_id: str, state: JobState | None) -> Conflict:
    how = f"has ended ({state})" if state is not None and state.is_final else f"is {state}"
    return Conflict(f"job {job_id} {how} and cannot be {what}.", job=job_id, state=state)


def _spent(record: JobRecord, budget: float | None) -> Conflict:
    cost = record.cost_nano / NANO
    given = "its budget" if budget is None else "a budget"
    amount = (record.budget_nano or 0) / NANO if budget is None else budget
    return Conflict(
        f"job {record.id} has cost {cost:.6g}, and {given} of {amount:.6g} does not let it continue.",
        hint=f"Give it more than it has cost: `batchmill resume {record.id} --budget N`, or job.resume(budget=N).",
        job=record.id,
        cost=cost,
        budget=amount,
    )
