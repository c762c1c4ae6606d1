"""The index of the row cache: which rows' results lie where in the blob store.

A segment is loose from the moment it is named until its blob is written and put into the index, and again once the
index has forgotten it. The janitor deletes the blobs of loose segments that are due, so none is left behind however
its writer ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchmill.ledger.connection import reaching_redis
from batchmill.row_cache import CacheStats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.connection import Store

DIGEST_BYTES = 16
LOOSE_LIFE_MS = 24 * 3600 * 1000
"""How long an attempt may take to write a segment."""

MOST_FORGOTTEN = 10_000
"""Rows that one call forgets, lest it keep the ledger waiting; a limit that was lowered is met by and by."""

LEAST_BYTES = 4096
"""What a segment counts as at least: a file takes that much, and small ones must not be without number."""


class Lookup(NamedTuple):
    """What the index knows of some rows."""

    places: list[bytes | None]  # segment (6 bytes) and place in it (8 bytes), None for a row it does not have
    segment: bytes  # for the rows that it does not have, to be written; empty: none


class Limits(NamedTuple):
    """What the cache may hold."""

    most_bytes: int  # of segments
    most_rows: int


class RowCacheLedger:
    """The index, in one hash for all operators: what tells them apart is in the rows' digests."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def find(self, digests: Sequence[bytes], segment: bytes) -> Lookup:
        """Look rows up by their digests, 16 bytes each, at most some thousand at once.

        segment: 6 bytes of chance; if rows are missing, it becomes a loose segment for them.
        """
        keys = self._keys
        taken, *places = self._store.run(
            "find_rows",
            [keys.cache_index(), keys.cache_used(), keys.cache_loose(), keys.cache_totals()],
            [self._store.now_ms, b"".join(digests), segment, LOOSE_LIFE_MS],
        )
        return Lookup(places, segment if taken else b"")

    def keep(self, segment: bytes, nbytes: int, digests: Sequence[bytes], places: bytes, limits: Limits) -> str:
        """Put a loose segment, whose blob is written, into the index; a word as in `keep_rows.lua`.

        places: where the results of each row lie in it, 8 bytes each.
        """
        return str(
            self._store.run(
                "keep_rows",
                self._all_keys(),
                [
                    self._store.now_ms,
                    segment,
                    max(nbytes, LEAST_BYTES),
                    b"".join(digests),
                    places,
                    limits.most_bytes,
                    limits.most_rows,
                    MOST_FORGOTTEN,
                ],
            ).decode()
        )

    def forget(self, segments: Sequence[bytes]) -> int:
        """Forget segments whose blobs are broken or gone; returns how many rows those had."""
        return int(self._store.run("forget_rows", self._all_keys(), segments)) if segments else 0

    def clear(self) -> int:
        """Forget everything; returns how many rows that was."""
        return int(self._store.run("forget_rows", self._all_keys(), []))

    def loose(self, now_ms: int, limit: int = 500) -> list[bytes]:
        """At most `limit` segments whose blobs are to be deleted now."""
        with reaching_redis():
            found: list[bytes] = self._store.redis.zrangebyscore(
                self._keys.cache_loose(), "-inf", now_ms, start=0, num=limit
            )
        return found

    def settle(self, segments: Sequence[bytes]) -> None:
        """Strike loose segments off, whose blobs are deleted or were never written."""
        if segments:
            with reaching_redis():
                self._store.redis.zrem(self._keys.cache_loose(), *segments)

    def stats(self) -> CacheStats:
        """How the cache stands."""
        keys = self._keys
        with reaching_redis(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.hlen(keys.cache_index())
            pipe.zcard(keys.cache_used())
            pipe.hgetall(keys.cache_totals())
            entries, segments, totals = pipe.execute()
        counted = {name.decode(): int(value) for name, value in totals.items()}
        return CacheStats(entries=entries, segments=segments, **counted)

    def _all_keys(self) -> list[str]:
        keys = self._keys
        return [keys.cache_index(), keys.cache_segments(), keys.cache_used(), keys.cache_loose(), keys.cache_totals()]
