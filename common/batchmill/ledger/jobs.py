"""Jobs in the ledger: accepted, read, stopped, ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from redis.retry import Retry

from batchmill.backoff import Backoff
from batchmill.cost import NANO
from batchmill.errors import Conflict, InvalidSource, NotFound, OutcomeUnknown, ServiceUnavailable
from batchmill.job import DEFAULT_TENANT, JobState, UploadSource
from batchmill.ledger.connection import RedisBackoff, reaching_redis
from batchmill.ledger.record import JobRecord
from batchmill.shard import ShardRef, format_shard_id, parse_shard_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.job import JobError, JobSpec
    from batchmill.ledger.connection import Store

IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000
ASKING = Retry(  # whether a job is accepted: for some seconds, as long as a server takes to start again
    RedisBackoff(Backoff(base_s=0.2, max_s=2.0)), retries=12, supported_errors=(ServiceUnavailable,)
)


@dataclass(frozen=True, slots=True)
class Submission:
    """A job ready to be accepted: validated, its rows stored."""

    job_id: str
    spec: JobSpec
    digest: str  # of the request, to compare repeats under one idempotency key
    idempotency_key: str | None = None
    inline_rows: bytes = b""
    rows_total: int | None = None  # when it is known exactly
    replay_of: str | None = None
    resumed_from: str | None = None
    operator_version: str = ""
    tenant: str = DEFAULT_TENANT


class JobLedger:
    """Jobs as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def submit(self, submission: Submission, *, max_live_jobs: int) -> tuple[str, bool]:
        """Accept a job; returns its id, and whether it is new (False: known under its idempotency key).

        Raises `Conflict` when the key was used for another request, `InvalidSource` when the upload is unknown or
        taken, `ServiceUnavailable` when too many jobs are alive, and `OutcomeUnknown` when the ledger does not answer:
        then the job may have been accepted.
        """
        keys, job_id, spec = self._keys, submission.job_id, submission.spec
        key = submission.idempotency_key
        upload = spec.source.upload if isinstance(spec.source, UploadSource) else ""
        word, known_id = self._submit(
            job_id,
            [
                keys.job(job_id),
                keys.jobs(),
                keys.live_jobs(),
                keys.idempotency(key) if key else keys.job(job_id),
                keys.inline_input(job_id),
                keys.uploads(),
            ],
            [
                self._store.now_ms,
                job_id,
                spec.model_dump_json(),
                submission.digest,
                IDEMPOTENCY_LIFE_MS if key else 0,
                submission.inline_rows,
                "" if submission.rows_total is None else submission.rows_total,
                keys.events(),
                upload,
                max_live_jobs,
                key or "",
                submission.replay_of or "",
                submission.resumed_from or "",
                submission.operator_version,
                submission.tenant,
                f"{spec.pool} {spec.operator}",
                "" if spec.budget is None else round(spec.budget * NANO),
            ],
        )
        _raise_refusal(word.decode(), known_id.decode(), upload, max_live_jobs)
        return known_id.decode(), word == b"accepted"

    def _submit(self, job_id: str, keys: list[str], arguments: list[str | bytes | int]) -> tuple[bytes, bytes]:
        def ask() -> tuple[bytes, bytes]:
            word, known_id = self._store.run("submit", keys, arguments)
            return word, known_id

        try:
            return ASKING.call_with_retry(ask, lambda _: None)
        except ServiceUnavailable as error:
            raise OutcomeUnknown(
                f"whether job {job_id} was accepted is not known: {error.message}",
                hint="Submit it again with the same idempotency key, or see whether the job is listed.",
                job=job_id,
            ) from error

    def known_under(self, idempotency_key: str) -> tuple[str, str] | None:
        """The id and request digest of the job that was accepted under a key, or None."""
        with reaching_redis():
            known = self._store.redis.get(self._keys.idempotency(idempotency_key))
        if known is None:
            return None
        job_id, digest = known.decode().split(" ")
        return job_id, digest

    def read(self, job_id: str) -> JobRecord:
        """A job's record. Raises `NotFound`."""
        with reaching_redis():
            fields = self._store.redis.hgetall(self._keys.job(job_id))
        if not fields:
            raise no_such_job(job_id)
        return JobRecord.from_hash(job_id, fields)

    def read_many(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """The records of those of the jobs that exist, in one round trip."""
        with reaching_redis(), self._store.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._keys.job(job_id))
            found = pipe.execute()
        return [JobRecord.from_hash(job_id, fields) for job_id, fields in zip(job_ids, found, strict=True) if fields]

    def live(self) -> list[JobRecord]:
        """The jobs that have not ended, oldest first."""
        with reaching_redis():
            ids = self._store.redis.smembers(self._keys.live_jobs())
        return self.read_many(sorted(job_id.decode() for job_id in ids))

    def newest(self, limit: int, before: str | None = None) -> list[JobRecord]:
        """At most `limit` jobs, newest first, older than the job `before`. Raises `NotFound` for an unknown one."""
        client, jobs = self._store.redis, self._keys.jobs()
        with reaching_redis():
            start = 0
            if before is not None:
                rank = client.zrevrank(jobs, before)
                if rank is None:
                    raise NotFound(f"there is no job {before!r}.", job=before)
                start = int(rank) + 1
            ids = client.zrevrange(jobs, start, start + limit - 1)
        return self.read_many([job_id.decode() for job_id in ids])

    def inline_input(self, job_id: str) -> bytes | None:
        """The rows of a small job, an Arrow stream."""
        with reaching_redis():
            rows: bytes | None = self._store.redis.get(self._keys.inline_input(job_id))
        return rows

    def stop(
        self,
        job_id: str,
        state: Literal[JobState.CANCELLING, JobState.FAILING, JobState.EXPIRING],
        error: JobError | None,
    ) -> JobState:
        """Ask a job to stop; returns its state afterwards. Raises `NotFound`."""
        word = self._store.run(
            "stop",
            [self._keys.job(job_id)],
            [
                self._store.now_ms,
                state,
                error.model_dump_json() if error else "",
                self._keys.events(),
                job_id,
            ],
        )
        if not word:
            raise no_such_job(job_id)
        return JobState(word.decode())

    def pause(self, job_id: str) -> None:
        """Hold a job. Raises `NotFound`, or `Conflict` when it is stopping or has ended."""
        state = JobState(self._steer("pause", job_id))
        if state is not JobState.PAUSED:
            raise _cannot("paused", job_id, state)

    def resume(self, job_id: str, budget: float | None = None) -> None:
        """Let a paused job go on; one that is not paused does anyway. budget: its budget from now on; None: as before.

        Raises `NotFound`, or `Conflict` when it is stopping or has ended, or when it has cost its budget.
        """
        word = self._steer("resume", job_id, "" if budget is None else round(budget * NANO))
        if word == "spent":
            raise _spent(self.read(job_id), budget)
        state = JobState(word)
        if state not in (JobState.PENDING, JobState.RUNNING):
            raise _cannot("resumed", job_id, state)

    def _steer(self, script: Literal["pause", "resume"], job_id: str, *told: str | int) -> str:
        keys, log = self._keys, self._keys.job_log(job_id)
        word = self._store.run(script, [keys.job(job_id), log], [self._store.now_ms, keys.events(), job_id, *told])
        if not word:
            raise no_such_job(job_id)
        return str(word.decode())

    def recall(self, record: JobRecord, epoch: int) -> int:
        """Take the queued shards of a paused job back, as its leader; returns how many."""
        keys, live = self._keys, self._live_attempts(record.id)
        recalled = self._store.run(
            "recall",
            [
                keys.leader(),
                keys.job(record.id),
                keys.waiting(record.id),
                keys.queued(record.spec.pool),
                *(keys.shard(ref.job_id, ref.stage, ref.shard_id) for ref in live),
            ],
            [
                self._store.now_ms,
                epoch,
                *(part for ref in live for part in (ref.member(), f"{ref.stage} {format_shard_id(ref.shard_id)}")),
            ],
        )
        return int(recalled)

    def finish(self, record: JobRecord, state: JobState, epoch: int) -> bool:
        """End a job in a final state, as its leader; False when it is not over yet or the leader is deposed."""
        keys, job_id = self._keys, record.id
        live = self._live_attempts(job_id) if record.shards_live else []
        word = self._store.run(
            "finish",
            [
                keys.leader(),
                keys.job(job_id),
                keys.live_jobs(),
                keys.ready(job_id),
                keys.waiting(job_id),
                keys.live_shards(job_id),
                keys.queued(record.spec.pool),
                keys.inline_input(job_id),
                keys.ended_jobs(),
                *(keys.shard(job_id, ref.stage, ref.shard_id) for ref in live),
            ],
            [self._store.now_ms, epoch, job_id, state, keys.events(), *(ref.member() for ref in live)],
        )
        return bool(word == b"ok")

    def _live_attempts(self, job_id: str) -> list[ShardRef]:
        """The present attempt of every shard that is not settled; token 0 before the first."""
        keys = self._keys
        with reaching_redis():
            names = self._store.redis.smembers(keys.live_shards(job_id))
        live = [(int(stage), parse_shard_id(shard)) for stage, shard in (name.decode().split(" ") for name in names)]
        with reaching_redis(), self._store.redis.pipeline(transaction=False) as pipe:
            for stage, shard_id in live:
                pipe.hget(keys.shard(job_id, stage, shard_id), "token")
            tokens = pipe.execute()
        return [
            ShardRef(job_id, stage, shard_id, int(token or 0))
            for (stage, shard_id), token in zip(live, tokens, strict=True)
        ]

    def dead_counts(self, job_id: str) -> dict[str, int]:
        """How many rows of a job died of which error."""
        with reaching_redis():
            counts = self._store.redis.hgetall(self._keys.dead_counts(job_id))
        return {kind.decode(): int(count) for kind, count in counts.items()}

    def begin_upload(self, upload_id: str, *, max_uploads: int = 1000) -> None:
        """Note an upload. Raises `ServiceUnavailable` when too many are open."""
        word = self._store.run("begin_upload", [self._keys.uploads()], [self._store.now_ms, upload_id, max_uploads])
        if word != b"ok":
            raise ServiceUnavailable(f"{max_uploads} uploads are open already.", hint="Try again later.")

    def drop_upload(self, upload_id: str) -> bool:
        """Forget an upload; False when it was not open. Its blobs are the caller's to delete."""
        return bool(self._store.run("drop_upload", [self._keys.uploads()], [upload_id]))

    def has_upload(self, upload_id: str) -> bool:
        """Whether an upload is open: begun, and taken by no job yet."""
        with reaching_redis():
            return self._store.redis.zscore(self._keys.uploads(), upload_id) is not None

    def expire_uploads(self, epoch: int, life_s: float, limit: int = 100) -> list[str]:
        """Forget uploads older than `life_s`, as the leader; returns their ids, for their blobs to be deleted."""
        ids = self._store.run(
            "expire_uploads",
            [self._keys.uploads(), self._keys.leader()],
            [self._store.now_ms, epoch, int(life_s * 1000), limit],
        )
        return [upload.decode() for upload in ids]


def no_such_job(job_id: str) -> NotFound:
    """The error for an id that no job has."""
    return NotFound(f"there is no job {job_id!r}.", hint="`batchmill jobs` lists the jobs.", job=job_id)


def _cannot(what: str, job_id: str, state: JobState) -> Conflict:
    stands = f"has ended ({state})" if state.is_final else f"is {state}"
    return Conflict(f"job {job_id} {stands} and cannot be {what}.", job=job_id, state=state)


def _spent(record: JobRecord, budget: float | None) -> Conflict:
    cost = record.cost_nano / NANO
    given = "its budget" if budget is None else "a budget"
    amount = (record.budget_nano or 0) / NANO if budget is None else budget
    return Conflict(
        f"job {record.id} has cost {cost:.6g}, and {given} of {amount:.6g} does not let it go on.",
        hint=f"Give it more than it has cost: `batchmill resume {record.id} --budget N`, or job.resume(budget=N).",
        job=record.id,
        cost=cost,
        budget=amount,
    )


def _raise_refusal(word: str, known_id: str, upload: str, max_live_jobs: int) -> None:
    if word == "conflict":
        raise Conflict(
            f"the idempotency key was used for job {known_id}, whose request differs from this one.",
            hint="Use a new key for a new request.",
            job=known_id,
        )
    if word == "no upload":
        raise InvalidSource(
            f"there is no open upload {upload!r}: it was never begun, has expired, or belongs to a job already.",
            hint="Upload the rows again.",
            upload=upload,
        )
    if word == "full":
        raise ServiceUnavailable(
            f"{max_live_jobs} jobs are alive already, the most this service takes.",
            hint="Wait for some to end, cancel some, or raise BATCHMILL_MAX_LIVE_JOBS.",
        )
