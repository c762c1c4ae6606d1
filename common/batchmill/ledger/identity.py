"""Which ledger this is: an id that a new one draws, a revision that grows, and the blobs that no job of it has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store

EXISTS_CHUNK = 1000
MARKING_MS = 10_000
_UPLOAD = re.compile(rb'"(upl-[^"]*)"')


class LedgerIdentity(NamedTuple):
    """revision: grows while a leader is there; a lower one than before means that the ledger was rolled back.

    store: where its blobs are, as the coordinator that marked the blob store names it; "" before.
    """

    ledger_id: str
    revision: int
    store: str = ""


class IdentityLedger:
    """The ledger's identity, and the orphans among the blobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys
        self._named: dict[str, list[str]] = {}  # uploads by the job whose request names them; no request ever changes

    def read(self, new_id: str) -> LedgerIdentity:
        """Return the identity; a ledger without one takes the id `new_id`."""
        key = self._keys.identity()
        with redis_errors(), self._store.redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(key, "ledger_id", new_id)
            pipe.hsetnx(key, "revision", 0)
            pipe.hmget(key, "ledger_id", "revision", "store")
            ledger_id, revision, store = pipe.execute()[-1]
        return LedgerIdentity(ledger_id.decode(), int(revision), (store or b"").decode())

    def begin_marking(self) -> bool:
        """Return whether the caller alone, for the next `MARKING_MS`, may mark a blob store as this ledger's."""
        with redis_errors():
            return bool(self._store.redis.set(self._keys.marking(), "", nx=True, px=MARKING_MS))

    def name_store(self, uri: str) -> None:
        """Keep where the blobs are, for messages."""
        with redis_errors():
            self._store.redis.hset(self._keys.identity(), "store", uri)

    def advance(self, by: int = 1) -> int:
        """Raise the revision, and return it."""
        with redis_errors():
            return int(self._store.redis.hincrby(self._keys.identity(), "revision", by))

    def unknown_jobs(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of the ids that no job has."""
        found: list[int] = []
        for start in range(0, len(job_ids), EXISTS_CHUNK):
            with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids[start : start + EXISTS_CHUNK]:
                    pipe.exists(self._keys.job(job_id))
                found += pipe.execute()
        return [job_id for job_id, exists in zip(job_ids, found, strict=True) if not exists]

    def unknown_uploads(self, upload_ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are neither open uploads nor named by any job, in whatever format it is kept.

        Only requests of jobs that were submitted since the last call are read.
        """
        with redis_errors():  # first: an upload that a job takes meanwhile is found there
            known = {member.decode() for member in self._store.redis.zrange(self._keys.uploads(), 0, -1)}
        if known.issuperset(upload_ids):
            return []
        self._read_requests()
        known.update(upload_id for named in self._named.values() for upload_id in named)
        return [upload_id for upload_id in upload_ids if upload_id not in known]

    def _read_requests(self) -> None:
        """Bring `_named` up to date."""
        with redis_errors():
            job_ids = [member.decode() for member in self._store.redis.zrange(self._keys.jobs(), 0, -1)]
        self._named = {job_id: self._named[job_id] for job_id in job_ids if job_id in self._named}
        new = [job_id for job_id in job_ids if job_id not in self._named]
        for start in range(0, len(new), EXISTS_CHUNK):
            chunk = new[start : start + EXISTS_CHUNK]
            with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
                for job_id in chunk:
                    pipe.hget(self._keys.job(job_id), "spec")
                specs = pipe.execute()
            for job_id, spec in zip(chunk, specs, strict=True):
                self._named[job_id] = [name.decode() for name in _UPLOAD.findall(spec or b"")]

    def note_orphans(self, job_ids: Sequence[str], now_ms: int, delay_ms: int) -> list[str]:
        """Note which jobs and uploads only the blob store has, in place of those noted before.

        Returns those that were noted `delay_ms` ago.
        """
        key = self._keys.orphans()
        with redis_errors():
            noted = {member.decode() for member in self._store.redis.zrange(key, 0, -1)}
            with self._store.redis.pipeline(transaction=True) as pipe:
                for job_id in noted - set(job_ids):
                    pipe.zrem(key, job_id)
                for job_id in job_ids:
                    pipe.zadd(key, {job_id: now_ms}, nx=True)
                pipe.zrangebyscore(key, "-inf", now_ms - delay_ms)
                due: list[bytes] = pipe.execute()[-1]
        return [job_id.decode() for job_id in due]
