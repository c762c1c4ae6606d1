"""The status of jobs for all that follow them over HTTP: one read per job and change, however many follow.

1. The first follower of a job starts its feed: a task that waits for the job's events and reads its status.
2. The feed subscribes before it reads. A change after the read sets the event, so that it is read next.
3. Each change is encoded once and replaces the one before. A follower that is slow gets the newest, and misses those
   between; nothing is queued for it.
4. Reads of one job have a distance in time that grows with the number of followers, so that many of them leave the
   event loop free for other requests.
5. The feed ends with the job, with its last follower, or with an error, which its followers get.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from batchmill.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager

    from batchmill.jobs.status import JobStatus

READ_AGAIN_S = 10.0  # an event may be missed
MIN_INTERVAL_S = 0.1
INTERVAL_PER_FOLLOWER_S = 0.002
"""Sending one event takes about a tenth of this: events of 500 followers leave most of a core to other requests."""


class Events(Protocol):
    """Where changes of jobs are announced."""

    def watching(self, job_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set whenever something happens to the job."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job's status at one time, encoded for all followers. An equal status has the same `id` on any coordinator."""

    id: str
    text: str
    is_final: bool

    @classmethod
    def of(cls, status: JobStatus) -> Snapshot:
        """Encode a status."""
        text = status.model_dump_json()
        return cls(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), text, status.is_final)


class StatusFeeds:
    """The feeds of one coordinator. For use on its event loop.

    events: where changes are announced. read: gives the status of a job. max_followers: of a tenant, at
    a time.
    """

    def __init__(self, events: Events, read: Callable[[str], Awaitable[JobStatus]], max_followers: int) -> None:
        self._events = events
        self._read = read
        self._max_followers = max_followers
        self._feeds: dict[str, _Feed] = {}
        self._followers = Counter[str]()

    @asynccontextmanager
    async def follow(self, job_id: str, tenant: str) -> AsyncIterator[AsyncIterator[Snapshot]]:
        """The snapshots of a job: one at once, then each change, the final one last.

        They end early when the job can no longer be read. Raises `Overloaded` when the tenant has as many streams
        as it may have; `NotFound` and `ServiceUnavailable` when the job cannot be read at first.
        """
        if self._followers[tenant] >= self._max_followers:
            raise Overloaded(
                f"{self._max_followers} event streams of this token are open, the most that this service allows.",
                hint="Close some, or ask for the status of jobs with GET /v1/jobs/JOB.",
                limit=self._max_followers,
            )
        self._followers[tenant] += 1
        feed = self._join(job_id)
        try:
            await feed.refresh()
            yield feed.snapshots()
        finally:
            self._leave(job_id, feed)
            self._followers[tenant] -= 1
            if not self._followers[tenant]:
                del self._followers[tenant]

    def interval_s(self) -> float:
        """How much longer reads wait because of the followers of all jobs."""
        return INTERVAL_PER_FOLLOWER_S * self._followers.total()

    def _join(self, job_id: str) -> _Feed:
        feed = self._feeds.get(job_id)
        if feed is None or feed.has_ended:
            feed = self._feeds[job_id] = _Feed(job_id, self._events, self._read, self.interval_s)
        feed.followers += 1
        return feed

    def _leave(self, job_id: str, feed: _Feed) -> None:
        feed.followers -= 1
        if not feed.followers:
            feed.stop()
            if self._feeds.get(job_id) is feed:
                del self._feeds[job_id]


class _Feed:
    """One job's newest snapshot, kept up to date by a task."""

    def __init__(
        self, job_id: str, events: Events, read: Callable[[str], Awaitable[JobStatus]], interval_s: Callable[[], float]
    ) -> None:
        self.followers = 0
        self._job_id = job_id
        self._events = events
        self._read = read
        self._interval_s = interval_s
        self._newest: Snapshot | None = None
        self._error: Exception | None = None
        self._reads_begun = self._reads_done = 0
        self._asked = asyncio.Event()  # somebody waits for a read
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._run(), name=f"feed of {job_id}")

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be read."""
        return self._error is not None or (self._newest is not None and self._newest.is_final)

    def stop(self) -> None:
        """Read no more."""
        self._task.cancel()

    async def refresh(self) -> None:
        """Wait for a read that begins after this call. Raises what it raised."""
        wanted = self._reads_begun + 1
        self._asked.set()
        async with self._changed:
            await self._changed.wait_for(lambda: self._reads_done >= wanted or self.has_ended)
        if self._error is not None:
            raise self._error

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The newest snapshot whenever it differs from the one before; ends after the final one, or with an error."""
        shown: Snapshot | None = None
        while shown is None or not shown.is_final:
            async with self._changed:
                while self._newest is shown and self._error is None:
                    await self._changed.wait()
            if self._newest is None or self._newest is shown:
                return
            shown = self._newest
            yield shown

    async def _run(self) -> None:
        try:
            with self._events.watching(self._job_id) as event:
                while not self.has_ended:
                    event.clear()  # before the read: what happens after it sets the event again
                    self._asked.clear()
                    self._reads_begun += 1
                    status = await self._read(self._job_id)
                    await self._show(Snapshot.of(status))
                    await self._rest(event, MIN_INTERVAL_S if status.shards_done else 0.0)
        except Exception as error:  # noqa: BLE001  # each follower raises it
            async with self._changed:
                self._error = error
                self._changed.notify_all()

    async def _show(self, snapshot: Snapshot) -> None:
        async with self._changed:
            self._reads_done = self._reads_begun
            if self._newest is None or snapshot.id != self._newest.id:
                self._newest = snapshot
            self._changed.notify_all()

    async def _rest(self, event: asyncio.Event, interval_s: float) -> None:
        """Wait for the next reason to read, and for the interval; at once when somebody asks."""
        asked = asyncio.create_task(self._asked.wait())
        happened = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([asked], timeout=interval_s + self._interval_s())
            await asyncio.wait([asked, happened], timeout=READ_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            happened.cancel()
