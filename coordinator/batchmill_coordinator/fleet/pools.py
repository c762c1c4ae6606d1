"""What the workers of each pool can take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.job import WorkerInfo


@dataclass(frozen=True, slots=True)
class PoolView:
    """The workers of one pool, taken together."""

    workers: int
    capacity: int  # shards they take at once
    operators: frozenset[str]  # what every one of them can run
    members: tuple[WorkerCapacity, ...] = ()  # each of them, for placing shards

    @property
    def models(self) -> frozenset[str]:
        """Return the models that at least one worker has loaded or is loading: their queues are consumed."""
        return frozenset(model for worker in self.members for model in worker.models | worker.loading)

    @property
    def has_spare(self) -> bool:
        """Return whether at least one worker has memory for another model: the spare queue is consumed."""
        return any(worker.has_spare for worker in self.members)

    @property
    def window(self) -> int:
        """Return how many published messages may wait in Celery: enough that no worker waits for the next one."""
        return max(2, self.capacity // 2)

    @property
    def horizon(self) -> int:
        """Return how many shards of a job should be live: running, in Celery, and a few to choose from."""
        return self.capacity + self.window + 2


EMPTY = PoolView(0, 0, frozenset())


def view_pools(workers: Iterable[WorkerInfo]) -> dict[str, PoolView]:
    """Group workers into pools, by name."""
    members: dict[str, list[WorkerInfo]] = defaultdict(list)
    for worker in workers:
        members[worker.pool].append(worker)
    return {
        name: PoolView(
            workers=len(those),
            capacity=sum(worker.shards_at_once for worker in those),
            operators=frozenset.intersection(*(frozenset(worker.operators) for worker in those)),
            members=tuple(_capacity_of(worker) for worker in those),
        )
        for name, those in members.items()
    }


def _capacity_of(worker: WorkerInfo) -> WorkerCapacity:
    return WorkerCapacity(
        name=worker.name,
        slots=worker.shards_at_once,
        models=frozenset(worker.models),
        loading=frozenset(worker.loading),
        has_spare=worker.has_room,
        load_s=worker.load_s,
    )


def why_no_worker(pool: str, operator: str, pools: dict[str, PoolView]) -> str | None:
    """Say why an operator cannot run in a pool, and what to do; None if it can."""
    view = pools.get(pool, EMPTY)
    if view.workers == 0:
        return f"no worker of pool {pool!r} is running; start one with `batchmill worker --pool {pool}`"
    if operator not in view.operators:
        return (
            f"not every worker of pool {pool!r} has the operator {operator!r}; start them all with the same --operators"
        )
    return None
