"""The pulse of a service: when it committed and when its leader dispatched, seen from outside in the ledger."""

from __future__ import annotations

import statistics
import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from chaos.faults import LEADER, STORE
from support.cluster import KEYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.faults import Struck
    from support.cluster import Cluster

LOOK_S = 0.05


@dataclass(slots=True)
class Pulse:
    """A thread that looks at the live jobs. Times are seconds since the epoch, ascending."""

    cluster: Cluster
    commits: list[float] = field(default_factory=list)
    dispatches: list[float] = field(default_factory=list)
    _seen: dict[str, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def recovery_s(self, fault: Struck) -> float | None:
        """How long after a fault the service was at work again; None if that was not seen.

        Of a fault of the leader: until a leader dispatches. Of any other: until anybody commits; while the whole store
        is away, that is counted from its return.
        """
        beats = self.dispatches if fault.target == LEADER else self.commits
        since = fault.undone_at or fault.at if fault.target == STORE else fault.at
        at = bisect_right(beats, since)
        return beats[at] - since if at < len(beats) else None

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                with self.cluster.redis() as client:
                    while not self._stop.wait(LOOK_S):
                        self._look(client)
            except (redis.RedisError, OSError):  # it is away: that is what the run is about
                continue

    def _look(self, client: Any) -> None:
        jobs = sorted(client.zrange(KEYS.live_jobs(), 0, -1))
        with client.pipeline(transaction=False) as pipe:
            pipe.time()
            for job in jobs:
                pipe.hmget(KEYS.stage(job, 0), "shards_done", "last_queued_at")
            (seconds, micros), *found = pipe.execute()
        commits = sum(self._grew(job, int(done or 0)) for job, (done, _) in zip(jobs, found, strict=True))
        if commits:
            self.commits.append(seconds + micros / 1e6)
        queued = max((int(at) / 1000 for _, at in found if at), default=0.0)
        if queued > (self.dispatches[-1] if self.dispatches else 0.0):
            self.dispatches.append(queued)

    def _grew(self, job: str, done: int) -> bool:
        before = self._seen.get(job, 0)
        self._seen[job] = max(done, before)
        return done > before


def spread(found: Sequence[float]) -> dict[str, float]:
    """The middle and the worst of some durations, in seconds."""
    return {"median_s": round(statistics.median(found), 3), "max_s": round(max(found), 3), "count": len(found)}
