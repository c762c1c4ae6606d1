"""Uploads in the ledger: begun, dropped by their client, forgotten when no job takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from batchmill.ledger.scripting.connection import Store


class UploadLedger:
    """Uploads that no job has taken yet."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def begin(self, upload_id: str, *, max_uploads: int = 1000) -> None:
        """Note an upload. Raises `ServiceUnavailable` when too many are open."""
        match calls.begin_upload(self._store, upload_id=upload_id, max_uploads=max_uploads):
            case calls.BeginUploadAnswer.OK:
                return
            case calls.BeginUploadAnswer.FULL:
                raise ServiceUnavailable(f"{max_uploads} uploads are open already.", hint="Try again later.")
            case never:
                assert_never(never)

    def drop(self, upload_id: str) -> bool:
        """Forget an upload; False when it was not open. Its blobs are the caller's to delete."""
        return calls.drop_upload(self._store, upload_id=upload_id)

    def is_open(self, upload_id: str) -> bool:
        """Whether an upload is open: begun, and taken by no job yet."""
        with redis_errors():
            return self._store.redis.zscore(self._keys.uploads(), upload_id) is not None

    def expire(self, epoch: int, life_s: float, limit: int = 100) -> list[str]:
        """Forget uploads older than `life_s`, as the leader; returns their ids, for their blobs to be deleted."""
        return calls.expire_uploads(self._store, epoch=epoch, life_ms=int(life_s * 1000), limit=limit)
