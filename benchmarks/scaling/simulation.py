"""A pool of workers whose number a policy sets. Event-driven and seeded.

A worker costs from when it is asked for until it is gone. A task that a worker has begun when it has to stop loses
nothing but the rest, which is requeued: as with Batchmill, where a batch ends and the rest of a shard goes back.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.scaling.traces import Job

DRAIN_S = 2.0  # a batch
GRACE_S = 30.0  # from SIGTERM to SIGKILL, where a task cannot be requeued in the middle
ARRIVAL_WINDOW_S = 600.0


@dataclass(frozen=True)
class Setup:
    """The cluster, and what is between the policy's number and its workers."""

    start_s: float = 150.0  # node, pod and model
    start_spread: float = 0.25  # sigma of its lognormal spread
    max_workers: int = 16
    min_workers: int = 0
    tick_s: float = 15.0
    keeps_progress: bool = True  # False: a task that is stopped begins anew, as with plain Celery
    seed: int = 1


@dataclass(frozen=True)
class Seen:
    """What a policy may look at. Times in seconds; work is device time."""

    now: float
    ready: int
    starting: Sequence[float]  # for how long each has been starting
    running: int  # tasks
    waiting: int
    visible: int  # tasks that the planner has planned
    work_s: float  # left, as predicted
    arriving: float  # work a second, averaged over ten minutes
    spent_s: float  # work done so far
    idle_since: Sequence[float]  # of workers without a task


class Policy(Protocol):
    """Says how many workers there should be; None: as many as there are."""

    def __call__(self, seen: Seen) -> float | None:
        """Decide."""


class Applied(Protocol):
    """What makes a number of workers from a policy's number: nothing, or Kubernetes."""

    def __call__(self, wanted: float, have: int, now: float) -> int:
        """Return how many workers there should be."""


@dataclass(frozen=True)
class Outcome:
    """What a policy cost, and how long jobs took."""

    worker_h: float
    useful_h: float
    late: float  # share of jobs that took longer than the target and their longest task
    p50_s: float
    p95_s: float
    starts: int
    reversals: int
    lost_h: float  # work that was begun anew


@dataclass(eq=False)
class _Worker:
    born: float
    ready_at: float
    idle_since: float
    task: tuple[int, float] | None = None  # job, seconds
    began: float = 0.0
    draining: bool = False


@dataclass
class _OpenJob:
    at: float
    longest_s: float
    left: int
    factor: float  # of the prediction


@dataclass
class _Tally:
    cost_s: float = 0.0
    useful_s: float = 0.0
    lost_s: float = 0.0
    starts: int = 0
    reversals: int = 0
    direction: int = 0
    took: list[float] = field(default_factory=list)
    late: int = 0


class Simulation:
    """One run. error: sigma of the lognormal error of each job's prediction; pace: a factor on all predictions."""

    def __init__(
        self, jobs: Sequence[Job], policy: Policy, applied: Applied, setup: Setup, target_s: float, error: float = 0.0
    ) -> None:
        self._jobs = jobs
        self._policy = policy
        self._applied = applied
        self._setup = setup
        self._target_s = target_s
        self._error = error
        self._rng = random.Random(setup.seed)  # noqa: S311  # a simulation
        self._events: list[tuple[float, int, str, Any]] = []
        self._numbers = count()
        self._workers: list[_Worker] = []
        self._queue: deque[tuple[int, float]] = deque()
        self._queued_s = 0.0  # predicted
        self._open: dict[int, _OpenJob] = {}
        self._arriving = self._arrived_s = 0.0
        self._tally = _Tally()

    def run(self) -> Outcome:
        """Run until all jobs are done and an hour has passed."""
        for number, job in enumerate(self._jobs):
            self._push(job.at, "job", number)
        self._push(0.0, "tick", None)
        handlers: dict[str, Callable[[Any, float], None]] = {
            "job": self._arrive,
            "done": self._end_task,
            "ready": self._ready,
            "gone": self._leave,
            "killed": self._kill,
        }
        ends_at, now = self._jobs[-1].at + 3600, 0.0
        while self._events:
            now, _, kind, what = heapq.heappop(self._events)
            if kind != "tick":
                handlers[kind](what, now)
                continue
            self._scale(now)
            if now >= ends_at and not self._open:
                break
            self._push(now + self._setup.tick_s, "tick", None)
        return self._outcome(now)

    def _push(self, at: float, kind: str, what: Any) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), kind, what))

    def _arrive(self, number: int, now: float) -> None:
        tasks = self._jobs[number].tasks
        factor = self._rng.lognormvariate(0, self._error) if self._error else 1.0
        self._open[number] = _OpenJob(now, max(tasks), len(tasks), factor)
        self._queue.extend((number, seconds) for seconds in tasks)
        self._queued_s += sum(tasks) * factor
        self._arrived_s += sum(tasks)
        self._give_out(now)

    def _give_out(self, now: float) -> None:
        if not self._queue:
            return
        for worker in self._workers:
            if worker.task is None and not worker.draining and worker.ready_at <= now:
                self._begin(worker, now)
                if not self._queue:
                    return

    def _begin(self, worker: _Worker, now: float) -> None:
        job, seconds = self._queue.popleft()
        self._queued_s = self._queued_s - seconds * self._open[job].factor if self._queue else 0.0
        worker.task, worker.began = (job, seconds), now
        self._push(now + seconds, "done", (worker, worker.task))

    def _ready(self, worker: _Worker, now: float) -> None:
        if worker in self._workers:
            self._give_out(now)

    def _end_task(self, ended: tuple[_Worker, tuple[int, float]], now: float) -> None:
        worker, task = ended
        if worker.task is not task:  # it was requeued meanwhile
            return
        self._tally.useful_s += task[1]
        worker.task, worker.idle_since = None, now
        self._settle(task[0], now)
        if worker.draining:
            self._retire(worker, now)
        elif self._queue:
            self._begin(worker, now)

    def _settle(self, number: int, now: float) -> None:
        job = self._open[number]
        job.left -= 1
        if job.left == 0:
            del self._open[number]
            self._tally.took.append(now - job.at)
            self._tally.late += now - job.at > self._target_s + job.longest_s

    def _requeue(self, job: int, seconds: float) -> None:
        self._queue.appendleft((job, seconds))
        self._queued_s += seconds * self._open[job].factor

    def _stop(self, worker: _Worker, now: float) -> None:
        if worker.task is None:
            self._retire(worker, now)
            return
        worker.draining = True
        job, seconds = worker.task
        if not self._setup.keeps_progress:
            if worker.began + seconds - now > GRACE_S:
                self._push(now + GRACE_S, "killed", worker)
            return
        done_s = min(now - worker.began + DRAIN_S, seconds)
        self._tally.useful_s += done_s
        worker.task = None
        self._push(now + DRAIN_S, "gone", worker)
        if done_s < seconds:
            self._requeue(job, seconds - done_s)
        else:
            self._settle(job, now)

    def _kill(self, worker: _Worker, now: float) -> None:
        if worker.task is None or worker not in self._workers:
            return
        self._tally.lost_s += now - worker.began
        self._requeue(*worker.task)
        worker.task = None
        self._leave(worker, now)

    def _leave(self, worker: _Worker, now: float) -> None:
        self._retire(worker, now)
        self._give_out(now)

    def _retire(self, worker: _Worker, now: float) -> None:
        self._tally.cost_s += now - worker.born
        self._workers.remove(worker)

    def _seen(self, now: float, live: Sequence[_Worker]) -> Seen:
        setup, ready = self._setup, [worker for worker in live if worker.ready_at <= now]
        busy = [worker for worker in live if worker.task is not None]
        share = min(setup.tick_s / ARRIVAL_WINDOW_S, 1.0)
        self._arriving += (self._arrived_s / setup.tick_s - self._arriving) * share
        self._arrived_s, running_s, begun_s = 0.0, 0.0, 0.0
        for worker in busy:
            if worker.task is None:
                continue
            job, seconds = worker.task
            begun_s += now - worker.began
            running_s += max(seconds - (now - worker.began), 0) * self._open[job].factor
        planned = len(ready) + max(2, len(ready) // 2) + 2
        return Seen(
            now=now,
            ready=len(ready),
            starting=[now - worker.born for worker in live if worker.ready_at > now],
            running=len(busy),
            waiting=len(self._queue),
            visible=min(len(self._queue), planned) + len(busy),
            work_s=max(self._queued_s, 0.0) + running_s,
            arriving=self._arriving,
            spent_s=self._tally.useful_s + begun_s,
            idle_since=[worker.idle_since for worker in ready if worker.task is None],
        )

    def _scale(self, now: float) -> None:
        live, setup, tally = [worker for worker in self._workers if not worker.draining], self._setup, self._tally
        have = len(live)
        wanted = self._policy(self._seen(now, live))
        number = have if wanted is None else self._applied(wanted, have, now)
        number = min(max(number, setup.min_workers), setup.max_workers)
        if number == have:
            return
        direction = 1 if number > have else -1
        tally.reversals += tally.direction == -direction
        tally.direction = direction
        for _ in range(number - have):
            takes_s = setup.start_s * self._rng.lognormvariate(0, setup.start_spread)
            worker = _Worker(now, now + takes_s, now + takes_s)
            self._workers.append(worker)
            tally.starts += 1
            self._push(worker.ready_at, "ready", worker)
        if number < have:
            starting = [worker for worker in live if worker.ready_at > now]
            ready = [worker for worker in live if worker.ready_at <= now]
            self._rng.shuffle(ready)
            if getattr(self._policy, "picks_idle", False):
                ready.sort(key=lambda worker: worker.task is not None)
            for worker in [*reversed(starting), *ready][: have - number]:
                self._stop(worker, now)
            self._give_out(now)

    def _outcome(self, now: float) -> Outcome:
        tally, took = self._tally, sorted(self._tally.took)
        cost_s = tally.cost_s + sum(now - worker.born for worker in self._workers)

        def quantile(share: float) -> float:
            return took[min(math.floor(share * len(took)), len(took) - 1)]

        return Outcome(
            worker_h=cost_s / 3600,
            useful_h=tally.useful_s / 3600,
            late=tally.late / len(took),
            p50_s=quantile(0.5),
            p95_s=quantile(0.95),
            starts=tally.starts,
            reversals=tally.reversals,
            lost_h=tally.lost_s / 3600,
        )
