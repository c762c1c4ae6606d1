"""Ended jobs in the ledger: how long ago they ended, and how they are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batchmill.errors import Conflict
from batchmill.jobs.job import MAX_STAGES
from batchmill.ledger.jobs import no_such_job
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors
from batchmill.ledger.tenants import TenantLedger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store


class RetentionLedger:
    """Jobs that have ended, by when. A job is first marked for deletion, then its blobs go, then it is forgotten."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._tenants = TenantLedger(store)

    def due(self, now_ms: int, retention_s: float, limit: int = 100) -> list[str]:
        """At most `limit` jobs marked for deletion or ended over `retention_s` ago (0: keep them), the oldest first."""
        latest = now_ms - int(retention_s * 1000) if retention_s else 0
        with redis_errors():
            ids = self._store.redis.zrangebyscore(self._keys.ended_jobs(), "-inf", latest, start=0, num=limit)
        return [job_id.decode() for job_id in ids]

    def with_results_between(self, before_ms: int, limit: int = 64) -> list[str]:
        """At most `limit` jobs that completed before then and whose results between stages are still to be deleted."""
        with redis_errors():
            ids = self._store.redis.zrangebyscore(self._keys.between_stages(), "-inf", before_ms, start=0, num=limit)
        return [job_id.decode() for job_id in ids]

    def note_deleted_between(self, job_id: str, stages: Sequence[int]) -> None:
        """Note that the results between the stages of a job are deleted. stages: those whose results are."""
        with redis_errors():
            if stages:
                self._store.redis.delete(*(self._keys.borders(job_id, stage) for stage in stages))
            self._store.redis.zrem(self._keys.between_stages(), job_id)

    def read_clock(self) -> tuple[int, int | None]:
        """Return the server's time (ms), and the last one that was noted, by whichever leader; None: no one."""
        now_ms = self._store.read_now_ms()
        with redis_errors():
            noted = self._store.redis.get(self._keys.clock_seen())
        return now_ms, int(noted) if noted is not None else None

    def note_clock(self, now_ms: int) -> None:
        """Note a time of the server that can be trusted."""
        with redis_errors():
            self._store.redis.set(self._keys.clock_seen(), now_ms)

    def mark_for_deletion(self, job_id: str) -> None:
        """Mark a job for deletion; from now on it is due.

        Raises `NotFound`, or `Conflict` if it has not ended or other jobs read its results.
        """
        reply = calls.mark_for_deletion(self._store, job_id=job_id)
        match reply.answer:
            case calls.MarkForDeletionAnswer.OK:
                return
            case calls.MarkForDeletionAnswer.NO_JOB:
                raise no_such_job(job_id)
            case calls.MarkForDeletionAnswer.NOT_ENDED:
                raise Conflict(
                    f"job {job_id} has not ended ({reply.state}) and cannot be deleted.",
                    hint="Cancel it, and delete it when it has stopped.",
                    job=job_id,
                    state=reply.state,
                )
            case calls.MarkForDeletionAnswer.READ:
                raise Conflict(
                    f"job {job_id} cannot be deleted: other jobs read its results.",
                    hint="Wait for them, or cancel them.",
                    job=job_id,
                )
            case never:
                assert_never(never)

    def forget(self, job_id: str) -> bool:
        """Remove a job that was marked for deletion and whose blobs are gone; False when it is not marked."""
        keys = self._keys
        job = keys.job(job_id)
        with redis_errors():
            idempotency_key, tenant = self._store.redis.hmget(job, "idempotency_key", "tenant")
        answer = calls.forget(
            self._store,
            job_id=job_id,
            idempotency_key=idempotency_key.decode() if idempotency_key else None,
            others=[key for key in keys.of_job(job_id, MAX_STAGES) if key != job],
        )
        is_forgotten = answer is calls.ForgetAnswer.OK
        if is_forgotten and tenant:
            self._tenants.remove_job(tenant.decode(), job_id)
        return is_forgotten
