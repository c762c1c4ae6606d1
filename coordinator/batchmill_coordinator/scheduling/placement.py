"""Which queue a shard goes to, so that workers that have its model take it. Pure.

A pool's messages lie in one queue for each loaded model, which the workers that have it consume from; in one for those
that have room for another model; and in one for all. A shard goes, in this order,

1. to its model's queue, while a worker that has the model has a place, or one that is about to have it and no other can
   take it at nobody's cost;
2. to the queue of those with room, or to the one for all when a worker has nothing to do, if its model is loaded
   nowhere or there is more work for it than loading it once more costs;
3. to its model's queue as well when its workers are busy: half as many may wait as are at work, so that none is idle.

Otherwise it is held back: it stays in the ledger, where it takes no place in the pool's window, and is asked for again
at the next step. What would make a busy worker drop the model that others are waiting for, a *displacement*, is held
back longest: until the model has waited `patience_s`, a multiple of what loading costs. So the share of time that goes
into loading is bounded, and so is the wait. While nobody competes with a model, nothing of it is held back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

from batchmill.broker import model_queue_of, queue_of, room_queue_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill_coordinator.fleet.seats import Seats

PATIENCE_LOADS = 4.0
LEAST_PATIENCE_S = 2.0  # a loaded model is announced 1.5 s after it began to load at the earliest
MOST_PATIENCE_S = 30.0


class Where(Enum):
    """What becomes of a shard."""

    MODEL = auto()  # into the queue of its model
    ROOM = auto()  # into the queue of the workers with room
    ANY = auto()  # into the pool's queue
    HOLD = auto()  # it stays in the ledger for now


@dataclass(frozen=True, slots=True)
class Demand:
    """What the jobs of one model want."""

    model: str
    in_flight: int  # shards that are queued or running
    backlog: int  # shards that could be queued
    work_s: float = 0.0  # how long the backlog will take one worker thread, as far as its jobs have shown
    drain_s: float | None = None  # how long it will take at the pace so far, all workers that have the model together
    waited_s: float = 0.0  # since one of its shards was last queued
    priority: int = 0  # the highest of its jobs


@dataclass(slots=True)
class _Taken:
    """What is reckoned to be at work on a worker, and what it is reckoned to be loading."""

    seats: Seats
    used: int = 0
    loading: set[str] = field(default_factory=set)

    @property
    def is_free(self) -> bool:
        return self.used < self.seats.places

    @property
    def has_room(self) -> bool:
        return self.seats.has_room and not self.loading


class Placement:
    """One step of the dispatcher over one pool: asked for one shard after another, it reckons with its own answers."""

    def __init__(self, workers: Iterable[Seats], demands: Iterable[Demand]) -> None:
        self._workers = [_Taken(seats, loading=set(seats.loading)) for seats in workers]
        self._demands = {demand.model: demand for demand in demands}
        self._backlog = {demand.model: demand.backlog for demand in self._demands.values()}
        self._in_flight = {demand.model: demand.in_flight for demand in self._demands.values()}
        self._warm = {
            model: [worker for worker in self._workers if model in worker.seats.models] for model in self._demands
        }
        self._waiting: dict[str, int] = {}  # in a model's queue, its workers being busy
        for model in sorted(self._demands, key=lambda model: len(self._warm[model])):
            self._seat(model, self._in_flight[model])

    def place(self, model: str) -> Where:
        """Where the next shard of a model goes."""
        where, worker = self._decide(self._demands[model])
        if where is Where.HOLD:
            return where
        self._in_flight[model] += 1
        self._backlog[model] -= 1
        if worker is not None:
            worker.used += 1
        if where is not Where.MODEL:
            if worker is not None:
                worker.loading.add(model)
        elif worker is None:
            self._waiting[model] += 1
        return where

    def is_warm(self, model: str) -> bool:
        """Whether some worker has the model."""
        return bool(self._warm[model])

    def _decide(self, demand: Demand) -> tuple[Where, _Taken | None]:
        warm = self._warm[demand.model]
        free = _emptiest(worker for worker in warm if worker.is_free)
        if free is not None:
            return Where.MODEL, free
        colder = self._colder(demand)
        if colder is not None and (not warm or _is_worth_loading(demand, warm, demand.drain_s)):
            return (Where.ROOM if colder.has_room else Where.ANY), colder
        if not warm:
            near = _emptiest(
                worker for worker in self._workers if worker.is_free and demand.model in worker.seats.loading
            )
            return (self._displace(demand), None) if near is None else (Where.MODEL, near)
        window = max(1, sum(worker.seats.places for worker in warm) // 2)
        return (Where.MODEL if self._waiting[demand.model] < window else Where.HOLD), None

    def _colder(self, demand: Demand) -> _Taken | None:
        """A worker without the model that can take a shard of it at nobody's cost, if there is one.

        A model that is loaded nowhere and on its way somewhere waits for that, unless the pool is its own or it has
        work for more workers.
        """
        model = demand.model
        alone = self._is_alone(model)
        loading = [worker for worker in self._workers if model in worker.loading]
        others = [worker for worker in self._workers if model not in worker.seats.models and worker.is_free]
        roomy = _emptiest(worker for worker in others if worker.has_room and (alone or worker.used == 0))
        waits = loading and not _is_worth_loading(demand, loading)
        if roomy is not None and (alone or not waits):
            return roomy
        if alone and self._harms_nobody(model):
            return _emptiest(others)
        if waits:
            return None
        return _emptiest(worker for worker in others if worker.used == 0 and not self._is_wanted(worker))

    def _displace(self, demand: Demand) -> Where:
        """What becomes of a shard whose model is loaded nowhere, when no worker can take it at nobody's cost."""
        alone = self._is_alone(demand.model)
        if not self._workers or (alone and self._harms_nobody(demand.model)):
            return Where.ANY
        load_s = max(worker.seats.load_s for worker in self._workers)
        patience_s = patience(load_s)
        loads = any(demand.model in worker.loading for worker in self._workers)
        if loads or self._in_flight[demand.model] > 0:  # it is on its way; but if that takes for ever, once more
            return Where.ANY if demand.waited_s > MOST_PATIENCE_S + load_s else Where.HOLD
        if alone or self._harms_nobody(demand.model) or demand.waited_s >= patience_s:
            return Where.ANY
        rivals = [other.priority for other in self._demands.values() if self._competes(other, demand.model)]
        return Where.ANY if demand.priority > max(rivals, default=demand.priority) else Where.HOLD

    def _is_alone(self, model: str) -> bool:
        return not any(self._competes(other, model) for other in self._demands.values())

    def _competes(self, other: Demand, model: str) -> bool:
        return other.model != model and (self._in_flight[other.model] > 0 or self._backlog[other.model] > 0)

    def _harms_nobody(self, model: str) -> bool:
        """Whether no worker would drop anything for the model."""
        return all(
            worker.has_room or model in worker.loading or not (worker.seats.models or worker.loading)
            for worker in self._workers
        )

    def _is_wanted(self, worker: _Taken) -> bool:
        """Whether it is loading, or work for what it has loaded is about to come."""
        return bool(worker.loading) or any(self._backlog.get(model, 0) > 0 for model in worker.seats.models)

    def _seat(self, model: str, in_flight: int) -> None:
        """Reckon who has what is in flight: those with the model first, evenly; half as much may wait; others load."""
        warm = self._warm[model]
        left = _fill(warm, in_flight)
        window = max(1, sum(worker.seats.places for worker in warm) // 2) if warm else 0
        self._waiting[model] = min(left, window)
        left -= self._waiting[model]
        left = _fill([worker for worker in self._workers if model in worker.loading], left)
        for worker in sorted(self._workers, key=lambda worker: (not worker.has_room, worker.used)):
            if left > 0 and worker not in warm and worker.is_free:
                worker.loading.add(model)
                worker.used += 1
                left -= 1
        _fill([worker for worker in self._workers if model in worker.loading], left)


def patience(load_s: float) -> float:
    """How long a model waits, in seconds, before it may displace another: a multiple of what loading costs."""
    return min(max(PATIENCE_LOADS * load_s, LEAST_PATIENCE_S), MOST_PATIENCE_S)


def _is_worth_loading(demand: Demand, having: Sequence[_Taken], drain_s: float | None = None) -> bool:
    """Whether the backlog keeps those who have the model busy for longer than loading it once more takes."""
    places = sum(worker.seats.places for worker in having)
    load_s = max(worker.seats.load_s for worker in having)
    return (demand.work_s / places if drain_s is None else drain_s) > load_s


def _fill(workers: Sequence[_Taken], shards: int) -> int:
    """Give shards to workers evenly while they have places; returns how many are left."""
    for _ in range(max((worker.seats.places for worker in workers), default=0)):
        for worker in workers:
            if shards > 0 and worker.is_free:
                worker.used += 1
                shards -= 1
    return shards


def _emptiest(workers: Iterable[_Taken]) -> _Taken | None:
    return min(workers, key=lambda worker: worker.used, default=None)


def queue_for(where: Where, pool: str, model: str) -> str:
    """The Celery queue for a shard that is not held back."""
    match where:
        case Where.MODEL:
            return model_queue_of(pool, model)
        case Where.ROOM:
            return room_queue_of(pool)
        case Where.ANY:
            return queue_of(pool)
        case Where.HOLD:
            raise AssertionError("what is held back has no queue")
        case never:
            assert_never(never)
