"""Documents of tenants: JSON values that are stored, replaced and deleted as a unit, such as the record of a file.

A tenant has a limited number of documents of a kind, which may refer to a limited number of bytes in the blob store.
They are listed by age. The leader gets those that are due: a file that expires, a batch that continues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from batchmill.errors import NotFound, Overloaded
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.ledger.scripting.connection import Store

UNLIMITED = 2**53
EXISTS_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was read. body: its JSON. created_at: ms since the epoch."""

    id: str
    tenant: str
    body: str
    created_at: int
    revision: int


@dataclass(frozen=True, slots=True)
class Quota:
    """How many documents of a kind a tenant may have, and how many bytes they may stand for."""

    max_count: int
    max_bytes: int


class DocumentLedger:
    """The documents of one kind."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store = store
        self._keys = store.keys
        self._kind = kind

    def add(
        self, document_id: str, tenant: str, body: str, *, due_ms: int | None, quota: Quota, nbytes: int = 0
    ) -> None:
        """Keep a document; nothing changes if it is there already. Raises `Overloaded` where the quota is used up."""
        reply = calls.add_document(
            self._store,
            kind=self._kind,
            document_id=document_id,
            tenant=tenant,
            body=body,
            nbytes=nbytes,
            due_ms=due_ms,
            max_count=quota.max_count,
            max_bytes=quota.max_bytes,
        )
        match reply:
            case calls.AddDocumentAnswer.ADDED:
                return
            case calls.AddDocumentAnswer.TOO_MANY | calls.AddDocumentAnswer.TOO_LARGE:
                raise self._no_room(tenant, quota)
            case never:
                assert_never(never)

    def require_room(self, tenant: str, quota: Quota) -> None:
        """Raise `Overloaded` if a tenant has used up its quota."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(self._keys.tenant_documents(self._kind, tenant))
            pipe.hget(self._keys.document_bytes(self._kind), tenant)
            count, nbytes = pipe.execute()
        if count >= quota.max_count or int(nbytes or 0) >= quota.max_bytes:
            raise self._no_room(tenant, quota)

    def _no_room(self, tenant: str, quota: Quota) -> Overloaded:
        return Overloaded(
            f"the tenant {tenant!r} has as much of the kind {self._kind!r} as it may: {quota.max_count:,}"
            + (f", and {quota.max_bytes:,} bytes." if quota.max_bytes < UNLIMITED else "."),
            hint="Delete some, or wait until some expire.",
            limit=quota.max_count,
        )

    def find(self, document_id: str) -> Document | None:
        """Return a document, or None if there is none."""
        return next(iter(self._read([document_id])), None)

    def page(
        self, tenant: str, limit: int, after: str | None = None, *, oldest_first: bool = False
    ) -> tuple[list[Document], bool]:
        """Return at most `limit` documents behind `after`, and whether there are more. Raises `NotFound`."""
        client, key = self._store.redis, self._keys.tenant_documents(self._kind, tenant)
        with redis_errors():
            start = 0
            if after is not None:
                rank = client.zrank(key, after) if oldest_first else client.zrevrank(key, after)
                if rank is None:
                    raise NotFound(f"there is no {self._kind} {after[:128]!r}.", field="after")
                start = int(rank) + 1
            ids = client.zrange(key, start, start + limit, desc=not oldest_first)
        return self._read([found.decode() for found in ids[:limit]]), len(ids) > limit

    def due(self, now_ms: int, limit: int) -> list[Document]:
        """Return at most `limit` documents that are due, the longest overdue first."""
        with redis_errors():
            ids = self._store.redis.zrangebyscore(
                self._keys.due_documents(self._kind), "-inf", now_ms, start=0, num=limit
            )
        return self._read([document_id.decode() for document_id in ids])

    def defer(self, document_ids: Sequence[str], due_ms: int) -> None:
        """Have documents that are due be due again at this time, if they are still there."""
        self.defer_each(dict.fromkeys(document_ids, due_ms))

    def defer_each(self, due_ms: Mapping[str, int]) -> None:
        """Have documents that are due be due again, each at its time, if they are still there."""
        if due_ms:
            with redis_errors():
                self._store.redis.zadd(self._keys.due_documents(self._kind), dict(due_ms), xx=True)

    def change(self, document: Document, body: str, *, due_ms: int, epoch: int | None = None) -> bool:
        """Replace the body of a document; False if it was changed or forgotten since, or another one leads by now.

        epoch: for what only the leader does.
        """
        answer = calls.change_document(
            self._store,
            kind=self._kind,
            document_id=document.id,
            revision=document.revision,
            body=body,
            due_ms=due_ms,
            epoch=epoch,
        )
        return answer is calls.ChangeDocumentAnswer.OK

    def remove(self, document_id: str, tenant: str) -> bool:
        """Forget a document; False when it was not there. Its blobs are the caller's to delete."""
        return calls.remove_document(self._store, kind=self._kind, document_id=document_id, tenant=tenant)

    def unknown(self, document_ids: Sequence[str]) -> list[str]:
        """Return those of the ids that no document has."""
        found: list[int] = []
        for start in range(0, len(document_ids), EXISTS_CHUNK):
            with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
                for document_id in document_ids[start : start + EXISTS_CHUNK]:
                    pipe.exists(self._keys.document(self._kind, document_id))
                found += pipe.execute()
        return [document_id for document_id, exists in zip(document_ids, found, strict=True) if not exists]

    def _read(self, document_ids: Sequence[str]) -> list[Document]:
        if not document_ids:
            return []
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for document_id in document_ids:
                pipe.hmget(self._keys.document(self._kind, document_id), "tenant", "body", "created", "revision")
            found = pipe.execute()
        return [
            Document(document_id, tenant.decode(), body.decode(), int(created), int(revision))
            for document_id, (tenant, body, created, revision) in zip(document_ids, found, strict=True)
            if tenant is not None
        ]
