"""Which queue a shard goes to, so that workers that have its model take it. Pure.

A pool has one queue for each loaded model, from which the workers that have the model consume; the *spare queue*, from
which those with memory for another model consume; and one from which all consume. A shard goes, in this order,

1. to its model's queue, while a worker that has the model has a free slot, or one that is about to have it and no
   other can take it without cost to another model;
2. to the spare queue, or to the pool's queue when a worker has nothing to do, if its model is loaded nowhere or there
   is more work for it than loading it once more costs;
3. to its model's queue as well when its workers are busy: half as many shards may wait as are running, so that no
   worker becomes idle.

Otherwise it is deferred: it stays in the ledger, where it takes no share of the pool's window, and is asked for again
at the next step. What would make a busy worker drop the model that others are waiting for, a *displacement*, is
deferred longest: until the model has waited `timeout_s`, a multiple of what loading costs. So the share of time that
is spent on loading is bounded, and so is the wait. While no other model competes, nothing is deferred.

Two stages of one job need no turns: the earlier one stops when the buffer between them is full, the later one when it
is empty. So one of them takes the last worker of the other only then, or after a far longer wait.

Rejected:

- One queue for each worker, chosen by the dispatcher. A shard that waits for a worker that dies or slows down must then
  be taken back and sent again. From a shared queue whoever is free takes it, and a wrong estimate costs little.
- Workers that choose among all shards. Fairness between jobs would be decided in many places at once, and each worker
  would have to read every job.
- Always to a worker that has the model, however long its queue. A second copy of a model that is in demand would never
  be loaded.
- The least recently used model is dropped at once for one that is not loaded. Two models in turn on one worker then
  reload for every shard.
- A solver over all shards and workers (assignment, bin packing). It needs run times that are not known for the first
  shards of a job, and its answer is out of date when the next worker is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

from batchmill.broker import model_queue_of, queue_of, spare_queue_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity

DEFER_LOADS = 4.0
DEFER_LOADS_IN_CHAIN = 16.0
MIN_DEFER_TIMEOUT_S = 2.0  # a loaded model is announced 1.5 s after it began to load at the earliest
MAX_DEFER_TIMEOUT_S = 30.0


class Target(Enum):
    """Where a shard goes."""

    MODEL = auto()  # to the queue of its model
    SPARE = auto()  # to the queue of the workers with memory for another model
    POOL = auto()  # to the pool's queue
    DEFER = auto()  # nowhere: it stays in the ledger for now


@dataclass(frozen=True, slots=True)
class Demand:
    """What the jobs of one model need."""

    model: str
    in_flight: int  # shards that are queued or running
    backlog: int  # shards that could be queued
    work_s: float = 0.0  # how long one slot needs for the backlog, as far as its jobs have shown
    drain_s: float | None = None  # how long all workers that have the model need for it at the pace so far
    waited_s: float = 0.0  # since one of its shards was last queued
    priority: int = 0  # the highest of its jobs
    linked: frozenset[str] = frozenset()  # models of other stages of each job that has shards of it to be queued


@dataclass(slots=True)
class _Reserved:
    """What a worker is assumed to be running and loading, its messages under way included."""

    capacity: WorkerCapacity
    used: int = 0
    loading: set[str] = field(default_factory=set)

    @property
    def has_free_slot(self) -> bool:
        return self.used < self.capacity.slots

    @property
    def has_spare(self) -> bool:
        return self.capacity.has_spare and not self.loading


class ShardPlacement:
    """One step of the dispatcher over one pool. It is asked for one shard after another, and counts its own answers."""

    def __init__(self, workers: Iterable[WorkerCapacity], demands: Iterable[Demand]) -> None:
        self._workers = [_Reserved(worker, loading=set(worker.loading)) for worker in workers]
        self._demands = {demand.model: demand for demand in demands}
        self._backlog = {demand.model: demand.backlog for demand in self._demands.values()}
        self._in_flight = {demand.model: demand.in_flight for demand in self._demands.values()}
        self._warm = {
            model: [worker for worker in self._workers if model in worker.capacity.models] for model in self._demands
        }
        self._waiting: dict[str, int] = {}  # in a model's queue, its workers being busy
        for model in sorted(self._demands, key=lambda model: len(self._warm[model])):
            self._assign(model, self._in_flight[model])

    def place(self, model: str) -> Target:
        """Target the next shard of a model goes."""
        target, worker = self._decide(self._demands[model])
        if target is Target.DEFER:
            return target
        self._in_flight[model] += 1
        self._backlog[model] -= 1
        if worker is not None:
            worker.used += 1
        if target is not Target.MODEL:
            if worker is not None:
                worker.loading.add(model)
        elif worker is None:
            self._waiting[model] += 1
        return target

    def is_warm(self, model: str) -> bool:
        """Return whether some worker has the model."""
        return bool(self._warm[model])

    def _decide(self, demand: Demand) -> tuple[Target, _Reserved | None]:
        warm = self._warm[demand.model]
        free = _least_loaded(worker for worker in warm if worker.has_free_slot)
        if free is not None:
            return Target.MODEL, free
        loader = self._worker_to_load(demand)
        if loader is not None and (not warm or self._is_worth_another(demand, warm, loader)):
            return (Target.SPARE if loader.has_spare else Target.POOL), loader
        if not warm:
            near = _least_loaded(
                worker for worker in self._workers if worker.has_free_slot and demand.model in worker.capacity.loading
            )
            return (self._displace(demand), None) if near is None else (Target.MODEL, near)
        window = max(1, sum(worker.capacity.slots for worker in warm) // 2)
        return (Target.MODEL if self._waiting[demand.model] < window else Target.DEFER), None

    def _is_worth_another(self, demand: Demand, warm: Sequence[_Reserved], loader: _Reserved) -> bool:
        """Return whether one more worker should load the model. The last one of another stage is soon wanted back."""
        last_of = (model for model in loader.capacity.models if len(self._warm.get(model, ())) == 1)
        loads = DEFER_LOADS_IN_CHAIN if not loader.has_spare and demand.linked.intersection(last_of) else 1.0
        return _is_worth_loading(demand, warm, demand.drain_s, loads=loads)

    def _worker_to_load(self, demand: Demand) -> _Reserved | None:
        """Find a worker without the model that can take a shard of it without cost to another model; None without one.

        A model that is loaded nowhere and on its way somewhere waits for that, unless the pool is its own or it has
        work for more workers.
        """
        model = demand.model
        alone = self._is_alone(model)
        loading = [worker for worker in self._workers if model in worker.loading]
        others = [worker for worker in self._workers if model not in worker.capacity.models and worker.has_free_slot]
        with_spare = _least_loaded(worker for worker in others if worker.has_spare and (alone or worker.used == 0))
        waits = loading and not _is_worth_loading(demand, loading)
        if with_spare is not None and (alone or not waits):
            return with_spare
        if alone and self._displaces_nothing(model):
            return _least_loaded(others)
        if waits:
            return None
        return _least_loaded(worker for worker in others if worker.used == 0 and not self._is_wanted(worker))

    def _displace(self, demand: Demand) -> Target:
        """Decide about a shard whose model is loaded nowhere, when each worker that could take it drops another."""
        alone = self._is_alone(demand.model)
        if not self._workers or (alone and self._displaces_nothing(demand.model)):
            return Target.POOL
        load_s = max(worker.capacity.load_s for worker in self._workers)
        timeout_s = chain_timeout_s(load_s) if self._takes_turns_in_chain(demand) else defer_timeout_s(load_s)
        loads = any(demand.model in worker.loading for worker in self._workers)
        if loads or self._in_flight[demand.model] > 0:  # it is being loaded; if that never ends, load it once more
            return Target.POOL if demand.waited_s > MAX_DEFER_TIMEOUT_S + load_s else Target.DEFER
        if alone or self._displaces_nothing(demand.model) or demand.waited_s >= timeout_s:
            return Target.POOL
        rivals = [other.priority for other in self._demands.values() if self._competes(other, demand.model)]
        return Target.POOL if demand.priority > max(rivals, default=demand.priority) else Target.DEFER

    def _is_alone(self, model: str) -> bool:
        return not any(self._competes(other, model) for other in self._demands.values())

    def _competes(self, other: Demand, model: str) -> bool:
        return other.model != model and (self._in_flight[other.model] > 0 or self._backlog[other.model] > 0)

    def _takes_turns_in_chain(self, demand: Demand) -> bool:
        """Return whether only stages of the same jobs compete, and one of them may lose its last worker."""
        rivals = [other.model for other in self._demands.values() if self._competes(other, demand.model)]
        return demand.linked.issuperset(rivals) and any(len(self._warm[model]) == 1 for model in rivals)

    def _displaces_nothing(self, model: str) -> bool:
        """Return whether no worker would drop another model for this one."""
        return all(
            worker.has_spare or model in worker.loading or not (worker.capacity.models or worker.loading)
            for worker in self._workers
        )

    def _is_wanted(self, worker: _Reserved) -> bool:
        """Return whether the worker is loading, or there is work for what it has loaded."""
        return bool(worker.loading) or any(self._backlog.get(model, 0) > 0 for model in worker.capacity.models)

    def _assign(self, model: str, in_flight: int) -> None:
        """Assign what is in flight: to workers with the model first, evenly; half as much may wait; others load it."""
        warm = self._warm[model]
        left = _fill(warm, in_flight)
        window = max(1, sum(worker.capacity.slots for worker in warm) // 2) if warm else 0
        self._waiting[model] = min(left, window)
        left -= self._waiting[model]
        left = _fill([worker for worker in self._workers if model in worker.loading], left)
        for worker in sorted(self._workers, key=lambda worker: (not worker.has_spare, worker.used)):
            if left > 0 and worker not in warm and worker.has_free_slot:
                worker.loading.add(model)
                worker.used += 1
                left -= 1
        _fill([worker for worker in self._workers if model in worker.loading], left)


def defer_timeout_s(load_s: float) -> float:
    """Return for how many seconds a model waits before it may displace another: a multiple of what loading costs."""
    return min(max(DEFER_LOADS * load_s, MIN_DEFER_TIMEOUT_S), MAX_DEFER_TIMEOUT_S)


def chain_timeout_s(load_s: float) -> float:
    """Return the same for a model that would take the last worker of another stage of its job.

    It has no upper bound: the slower a model loads, the more work a turn has to be worth.
    """
    return max(DEFER_LOADS_IN_CHAIN * load_s, defer_timeout_s(load_s))


def _is_worth_loading(
    demand: Demand, having: Sequence[_Reserved], drain_s: float | None = None, *, loads: float = 1.0
) -> bool:
    """Return whether the backlog keeps these workers busy for longer than loading the model that often takes."""
    slots = sum(worker.capacity.slots for worker in having)
    load_s = max(worker.capacity.load_s for worker in having)
    return (demand.work_s / slots if drain_s is None else drain_s) > loads * load_s


def _fill(workers: Sequence[_Reserved], shards: int) -> int:
    """Give shards to workers evenly while they have free slots; returns how many are left."""
    for _ in range(max((worker.capacity.slots for worker in workers), default=0)):
        for worker in workers:
            if shards > 0 and worker.has_free_slot:
                worker.used += 1
                shards -= 1
    return shards


def _least_loaded(workers: Iterable[_Reserved]) -> _Reserved | None:
    return min(workers, key=lambda worker: worker.used, default=None)


def queue_for(target: Target, pool: str, model: str) -> str:
    """Return the Celery queue for a shard that is not deferred."""
    match target:
        case Target.MODEL:
            return model_queue_of(pool, model)
        case Target.SPARE:
            return spare_queue_of(pool)
        case Target.POOL:
            return queue_of(pool)
        case Target.DEFER:
            raise AssertionError("a deferred shard has no queue")
        case never:
            assert_never(never)
