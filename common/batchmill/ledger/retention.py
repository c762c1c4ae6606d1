"""Ended jobs in the ledger: how long ago they ended, and how they are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import Conflict
from batchmill.ledger.connection import reaching_redis
from batchmill.ledger.jobs import no_such_job
from batchmill.ledger.tenants import TenantLedger

if TYPE_CHECKING:
    from batchmill.ledger.connection import Store


class RetentionLedger:
    """Jobs that have ended, by when. A job is first condemned, then its blobs go, then it is forgotten."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._tenants = TenantLedger(store)

    def due(self, now_ms: int, retention_s: float, limit: int = 100) -> list[str]:
        """At most `limit` jobs that are condemned or ended over `retention_s` ago (0: keep them), the oldest first."""
        latest = now_ms - int(retention_s * 1000) if retention_s else 0
        with reaching_redis():
            ids = self._store.redis.zrangebyscore(self._keys.ended_jobs(), "-inf", latest, start=0, num=limit)
        return [job_id.decode() for job_id in ids]

    def condemn(self, job_id: str) -> None:
        """Mark a job for deletion; from now on it is due. Raises `NotFound`, or `Conflict` if it has not ended."""
        word = self._store.run("condemn", [self._keys.job(job_id), self._keys.ended_jobs()], [job_id]).decode()
        if not word:
            raise no_such_job(job_id)
        if word != "ok":
            raise Conflict(
                f"job {job_id} has not ended ({word}) and cannot be deleted.",
                hint="Cancel it, and delete it when it has stopped.",
                job=job_id,
                state=word,
            )

    def forget(self, job_id: str) -> bool:
        """Remove a condemned job, whose blobs are gone; False when it is not condemned."""
        keys = self._keys
        job = keys.job(job_id)
        with reaching_redis():
            idempotency_key, tenant = self._store.redis.hmget(job, "idempotency_key", "tenant")
        own = [key for key in keys.of_job(job_id) if key != job]
        known = keys.idempotency(idempotency_key.decode()) if idempotency_key else job
        word = self._store.run("forget", [job, keys.jobs(), keys.ended_jobs(), known, *own], [job_id, keys.events()])
        if word == b"ok" and tenant:
            self._tenants.remove_job(tenant.decode(), job_id)
        return bool(word == b"ok")
