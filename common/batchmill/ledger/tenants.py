"""What belongs to which tenant: its jobs, those of them that live, and its open uploads.

These are indexes beside the ledger's own keys. The scripts keep those of jobs. An entry of an upload is written after
what it names, and removed after that is gone, so a process that dies in between leaves an entry too many, which readers
drop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import NotFound, Overloaded
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store

EMPTY_UPLOAD_TTL_MS = 15 * 60 * 1000
"""An upload that has no part after this long makes room for another one of its tenant."""


class TenantLedger:
    """The indexes by tenant."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def remove_job(self, tenant: str, job_id: str) -> None:
        """Forget a job that was deleted."""
        with redis_errors():
            self._store.redis.zrem(self._keys.tenant_jobs(tenant), job_id)

    def newest(self, tenant: str, limit: int, before: str | None = None) -> list[str]:
        """The ids of at most `limit` jobs of a tenant, newest first, older than `before`. Raises `NotFound`."""
        client, key = self._store.redis, self._keys.tenant_jobs(tenant)
        with redis_errors():
            start = 0
            if before is not None:
                rank = client.zrevrank(key, before)
                if rank is None:
                    raise NotFound(f"there is no job {before!r}.", job=before)
                start = int(rank) + 1
            ids = client.zrevrange(key, start, start + limit - 1)
        return [job_id.decode() for job_id in ids]

    def live_ids(self, tenant: str, limit: int) -> list[str]:
        """The ids of at most `limit` live jobs of a tenant, newest first."""
        with redis_errors():
            ids = self._store.redis.zrevrange(self._keys.tenant_live_jobs(tenant), 0, limit - 1)
        return [job_id.decode() for job_id in ids]

    def count_live(self, tenants: Sequence[str]) -> dict[str, int]:
        """How many jobs of each of these tenants live."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for tenant in tenants:
                pipe.zcard(self._keys.tenant_live_jobs(tenant))
            return dict(zip(tenants, map(int, pipe.execute()), strict=True))

    def require_upload_room(self, tenant: str, max_uploads: int, max_bytes: int) -> None:
        """Raise `Overloaded` when a tenant has as many open uploads as it may have, or as many bytes in them."""
        sizes = self._open_uploads(tenant)
        if len(sizes) >= max_uploads or sum(sizes.values()) >= max_bytes:
            raise Overloaded(
                f"the tenant {tenant!r} has {len(sizes):,} open uploads with {sum(sizes.values()):,} bytes; "
                f"{max_uploads:,} and {max_bytes:,} are allowed.",
                hint="Submit or drop some: DELETE /v1/uploads/{id}. Uploads without a part end by themselves.",
                limit=max_uploads,
            )

    def add_upload(self, tenant: str, upload_id: str) -> None:
        """Note whose an upload is that was opened; before that nobody knows its id."""
        with redis_errors():
            self._store.redis.hset(self._keys.tenant_uploads(tenant), upload_id, 0)

    def owns_upload(self, tenant: str, upload_id: str) -> bool:
        """Whether the tenant began an upload; it may have been taken by a job since."""
        with redis_errors():
            return bool(self._store.redis.hexists(self._keys.tenant_uploads(tenant), upload_id))

    def add_upload_bytes(self, tenant: str, upload_id: str, nbytes: int, max_bytes: int) -> None:
        """Count a part of an upload. Raises `Overloaded` when the tenant's open uploads become too large."""
        total = sum(self._open_uploads(tenant).values())
        if total + nbytes > max_bytes:
            raise Overloaded(
                f"the open uploads of the tenant {tenant!r} have {total:,} bytes; {max_bytes:,} are allowed.",
                hint="Submit or drop some, or raise BATCHMILL_MAX_UPLOAD_BYTES_PER_TENANT.",
                limit=max_bytes,
            )
        with redis_errors():
            self._store.redis.hincrby(self._keys.tenant_uploads(tenant), upload_id, nbytes)

    def remove_upload(self, tenant: str, upload_id: str) -> None:
        """Forget an upload that was dropped."""
        with redis_errors():
            self._store.redis.hdel(self._keys.tenant_uploads(tenant), upload_id)

    def _open_uploads(self, tenant: str) -> dict[str, int]:
        """The bytes of each open upload of a tenant, without those that were taken or dropped, or never filled."""
        key, uploads = self._keys.tenant_uploads(tenant), self._keys.uploads()
        with redis_errors():
            sizes = {name.decode(): int(size) for name, size in self._store.redis.hgetall(key).items()}
            if not sizes:
                return {}
            begun = self._store.redis.zmscore(uploads, list(sizes))
            seconds, _ = self._store.redis.time()
            stale_ms = (self._store.now_ms or int(seconds) * 1000) - EMPTY_UPLOAD_TTL_MS
            gone = [
                name
                for (name, size), at_ms in zip(sizes.items(), begun, strict=True)
                if at_ms is None or (size == 0 and at_ms < stale_ms)
            ]
            if gone:
                self._store.redis.hdel(key, *gone)
                self._store.redis.zrem(uploads, *gone)
        return {name: size for name, size in sizes.items() if name not in gone}
