"""The index of the row cache: where in the blob store the results of each row are.

A segment is loose from the moment it is named until its blob is written and put into the index, and again once the
index has forgotten it. The janitor deletes the blobs of loose segments that are due, so none is left behind however
its writer ended. Blobs that a ledger which was rolled back does not know become loose segments again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors
from batchmill.row_cache import CacheStats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store

DIGEST_BYTES = 16
LOOSE_TTL_MS = 24 * 3600 * 1000
"""How long an attempt may take to write a segment."""

MAX_FORGOTTEN = 10_000
"""Rows that one call forgets, lest it keep the ledger waiting; a limit that was lowered is met by and by."""

ADOPTED_AT_ONCE = 1000

MIN_BYTES = 4096
"""What a segment counts as at least: a file takes that much, and small ones must not be without number."""


class Lookup(NamedTuple):
    """What the index knows of some rows."""

    places: list[bytes | None]  # segment (6 bytes) and place in it (8 bytes), None for a row it does not have
    segment: bytes  # for the rows that it does not have, to be written; empty: none


class Limits(NamedTuple):
    """What the cache may hold."""

    max_bytes: int  # of segments
    max_rows: int


class RowCacheLedger:
    """The index, in one hash for all operators: the digest of a row includes its operator."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def find(self, digests: Sequence[bytes], segment: bytes) -> Lookup:
        """Look rows up by their digests, 16 bytes each, at most some thousand at once.

        segment: 6 bytes of chance; if rows are missing, it becomes a loose segment for them.
        """
        reply = calls.find_rows(self._store, digests=b"".join(digests), segment=segment, loose_ms=LOOSE_TTL_MS)
        return Lookup(reply.places, segment if reply.taken else b"")

    def keep(
        self, segment: bytes, nbytes: int, digests: Sequence[bytes], places: bytes, limits: Limits
    ) -> calls.KeepRowsAnswer:
        """Put a loose segment, whose blob is written, into the index.

        places: where the results of each row are in it, 8 bytes each.
        """
        return calls.keep_rows(
            self._store,
            segment=segment,
            nbytes=max(nbytes, MIN_BYTES),
            digests=b"".join(digests),
            places=places,
            max_bytes=limits.max_bytes,
            max_rows=limits.max_rows,
            max_forgotten=MAX_FORGOTTEN,
        )

    def forget(self, segments: Sequence[bytes]) -> int:
        """Forget segments whose blobs are broken or gone; returns how many rows those had."""
        return calls.forget_rows(self._store, everything=False, broken=segments) if segments else 0

    def clear(self) -> int:
        """Forget everything; returns how many rows that was."""
        return calls.forget_rows(self._store, everything=True, broken=[])

    def loose(self, now_ms: int, limit: int = 500) -> list[bytes]:
        """At most `limit` segments whose blobs are to be deleted now."""
        with redis_errors():
            found: list[bytes] = self._store.redis.zrangebyscore(
                self._keys.cache_loose(), "-inf", now_ms, start=0, num=limit
            )
        return found

    def remove_loose(self, segments: Sequence[bytes]) -> None:
        """Remove loose segments, whose blobs are deleted or were never written."""
        if segments:
            with redis_errors():
                self._store.redis.zrem(self._keys.cache_loose(), *segments)

    def adopt(self, segments: Sequence[bytes], now_ms: int) -> int:
        """Make those segments loose, from their blobs' names, that the ledger does not know; returns how many.

        One that was written just before a ledger was rolled back is such.
        """
        adopted = 0
        for start in range(0, len(segments), ADOPTED_AT_ONCE):
            some = segments[start : start + ADOPTED_AT_ONCE]
            with redis_errors(), self._store.redis.pipeline(transaction=True) as pipe:
                pipe.zmscore(self._keys.cache_used(), some)
                pipe.zmscore(self._keys.cache_loose(), some)
                used, loose = pipe.execute()
            pairs = zip(some, used, loose, strict=True)
            unknown = [name for name, at, due in pairs if at is None and due is None]
            if unknown:
                with redis_errors():
                    self._store.redis.zadd(
                        self._keys.cache_loose(), dict.fromkeys(unknown, now_ms + LOOSE_TTL_MS), nx=True
                    )
            adopted += len(unknown)
        return adopted

    def stats(self) -> CacheStats:
        """Statistics of the cache."""
        keys = self._keys
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.hlen(keys.cache_index())
            pipe.zcard(keys.cache_used())
            pipe.hgetall(keys.cache_totals())
            entries, segments, totals = pipe.execute()
        counted = {name.decode(): int(value) for name, value in totals.items()}
        return CacheStats(entries=entries, segments=segments, **counted)
