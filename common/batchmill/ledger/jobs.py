"""Jobs in the ledger: accepted, read, stopped, ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from batchmill.errors import Conflict, InvalidSource, NotFound, ServiceUnavailable
from batchmill.job import JobError, JobSpec, JobState, UploadSource
from batchmill.ledger.connection import reaching_redis
from batchmill.shard import ShardRef, format_shard_id, parse_shard_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.connection import Store

IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the ledger knows of a job. Times are milliseconds since the epoch; counters count rows or shards."""

    id: str
    spec: JobSpec
    state: JobState
    created_at: int
    started_at: int | None
    paused_at: int | None  # while it is paused
    stopping_at: int | None
    finished_at: int | None
    error: JobError | None
    cursor: str
    planned: bool  # whether the source's end was reached
    rows_total: int | None
    rows_exact: bool
    rows_planned: int
    rows_done: int
    rows_dead: int
    shards_planned: int
    shards_live: int
    shards_queued: int
    shards_running: int
    shards_done: int
    busy_us: int  # device time of committed attempts
    rows_timed: int  # rows that time was spent on
    bytes_in: int
    paces: str  # the last intervals between commits, see `commit.lua`
    rate_at: int | None  # since when the next one goes on
    rate_rows: int  # settled by then
    last_queued_at: int | None  # when a shard of it was last queued, or it was resumed
    paused_ms: int  # in all pauses that are over, since it started
    replay_of: str | None = None  # the job whose dead letters this one runs again
    resumed_from: str | None = None  # the job whose output this one goes on with
    adopts: bool = False  # whether what that job left is still to be taken over
    operator_version: str = ""
    rows_cached: int = 0

    @classmethod
    def from_hash(cls, job_id: str, fields: dict[bytes, bytes]) -> JobRecord:
        """A record from the job's hash."""
        text = {name.decode(): value.decode() for name, value in fields.items()}

        def number(name: str) -> int:
            return int(text.get(name) or 0)

        def moment(name: str) -> int | None:
            return int(text[name]) if text.get(name) else None

        return cls(
            id=job_id,
            spec=_spec(text["spec"]),
            state=JobState(text["state"]),
            created_at=number("created_at"),
            started_at=moment("started_at"),
            paused_at=moment("paused_at"),
            stopping_at=moment("stopping_at"),
            finished_at=moment("finished_at"),
            error=JobError.model_validate_json(text["error"]) if text.get("error") else None,
            cursor=text.get("cursor", ""),
            planned=text.get("planned") == "1",
            rows_total=moment("rows_total"),
            rows_exact=text.get("rows_exact") == "1",
            rows_planned=number("rows_planned"),
            rows_done=number("rows_done"),
            rows_dead=number("rows_dead"),
            shards_planned=number("shards_planned"),
            shards_live=number("shards_live"),
            shards_queued=number("shards_queued"),
            shards_running=number("shards_running"),
            shards_done=number("shards_done"),
            busy_us=number("busy_us"),
            rows_timed=number("rows_timed"),
            bytes_in=number("bytes_in"),
            paces=text.get("paces", ""),
            rate_at=moment("rate_at"),
            rate_rows=number("rate_rows"),
            last_queued_at=moment("last_queued_at"),
            paused_ms=number("paused_ms"),
            replay_of=text.get("replay_of"),
            resumed_from=text.get("resumed_from"),
            adopts=text.get("adopts") == "1",
            operator_version=text.get("operator_version", ""),
            rows_cached=number("rows_cached"),
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


class JobLedger:
    """Jobs as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def submit(self, submission: Submission, *, max_live_jobs: int) -> tuple[str, bool]:
        """Accept a job; returns its id, and whether it is new (False: known under its idempotency key).

        Raises `Conflict` when the key was used for another request, `InvalidSource` when the upload is unknown or
        taken, `ServiceUnavailable` when too many jobs are alive.
        """
        keys, job_id, spec = self._keys, submission.job_id, submission.spec
        key = submission.idempotency_key
        upload = spec.source.upload if isinstance(spec.source, UploadSource) else ""
        word, known_id = self._store.run(
            "submit",
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
            ],
        )
        _raise_refusal(word.decode(), known_id.decode(), upload, max_live_jobs)
        return known_id.decode(), word == b"accepted"

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
        state = self._steer("pause", job_id)
        if state is not JobState.PAUSED:
            raise _cannot("paused", job_id, state)

    def resume(self, job_id: str) -> None:
        """Let a paused job go on; one that is not paused does anyway.

        Raises `NotFound`, or `Conflict` when it is stopping or has ended.
        """
        state = self._steer("resume", job_id)
        if state not in (JobState.PENDING, JobState.RUNNING):
            raise _cannot("resumed", job_id, state)

    def _steer(self, script: Literal["pause", "resume"], job_id: str) -> JobState:
        keys = self._keys
        word = self._store.run(
            script, [keys.job(job_id), keys.job_log(job_id)], [self._store.now_ms, keys.events(), job_id]
        )
        if not word:
            raise no_such_job(job_id)
        return JobState(word.decode())

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


@lru_cache(maxsize=1024)
def _spec(text: str) -> JobSpec:
    return JobSpec.model_validate_json(text)


def no_such_job(job_id: str) -> NotFound:
    """The error for an id that no job has."""
    return NotFound(f"there is no job {job_id!r}.", hint="`batchmill jobs` lists the jobs.", job=job_id)


def _cannot(what: str, job_id: str, state: JobState) -> Conflict:
    stands = f"has ended ({state})" if state.is_final else f"is {state}"
    return Conflict(f"job {job_id} {stands} and cannot be {what}.", job=job_id, state=state)


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
