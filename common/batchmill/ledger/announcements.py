"""What happened to jobs with webhooks, written in the step in which it happened: the outbox.

The leader makes a message for each receiver, a document that is there once however often this is tried, and then takes
the announcement out. See C. Richardson, "Pattern: Transactional outbox".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from batchmill.jobs.webhooks.spec import WebhookEvent
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from batchmill.ledger.scripting.connection import Store

DEAD_ROWS = "dead_rows:"


class Announcement(NamedTuple):
    """dead_rows: of `WebhookEvent.DEAD_ROWS`, how many have failed. at_ms: when, since the epoch."""

    job_id: str
    event: WebhookEvent
    dead_rows: int | None
    at_ms: int
    member: bytes

    @classmethod
    def parse(cls, member: bytes, at_ms: float) -> Self:
        """Parse what `commit.lua` and `finish.lua` write."""
        what, _, job_id = member.decode().partition(" ")
        if what.startswith(DEAD_ROWS):
            rows = int(what.removeprefix(DEAD_ROWS))
            return cls(job_id, WebhookEvent.DEAD_ROWS, rows, int(at_ms), member)
        return cls(job_id, WebhookEvent(f"job.{what}"), None, int(at_ms), member)


class AnnouncementLedger:
    """The announcements that wait."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.keys.announcements()

    def waiting(self, limit: int, start: int = 0) -> list[Announcement]:
        """Return at most `limit` announcements, the oldest first, without the first `start`."""
        with redis_errors():
            found = self._store.redis.zrange(self._key, start, start + limit - 1, withscores=True)
        return [Announcement.parse(member, at_ms) for member, at_ms in found]

    def settle(self, announcement: Announcement) -> None:
        """Take an announcement out, whose messages are stored."""
        with redis_errors():
            self._store.redis.zrem(self._key, announcement.member)
