"""What the workers of each pool can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.job import WorkerInfo


@dataclass(frozen=True, slots=True)
class PoolView:
    """The workers of one pool, taken together."""

    workers: int
    capacity: int  # shards they take at once
    operators: frozenset[str]  # what every one of them can run

    @property
    def window(self) -> int:
        """How many published messages may wait in Celery: enough that no worker waits for the next one."""
        return max(2, self.capacity // 2)

    @property
    def horizon(self) -> int:
        """How many shards of its jobs should be alive: at work, in Celery, and a few to choose from."""
        return self.capacity + self.window + 2


EMPTY = PoolView(0, 0, frozenset())


def view_pools(workers: Iterable[WorkerInfo]) -> dict[str, PoolView]:
    """The pools by name."""
    pools: dict[str, PoolView] = {}
    for worker in workers:
        seen = pools.get(worker.pool)
        operators = frozenset(worker.operators)
        pools[worker.pool] = PoolView(
            workers=1 + (seen.workers if seen else 0),
            capacity=worker.shards_at_once + (seen.capacity if seen else 0),
            operators=operators & seen.operators if seen else operators,
        )
    return pools


def why_waiting(pool: str, operator: str, pools: dict[str, PoolView]) -> str | None:
    """What keeps an operator from running in a pool, in words for a user, or None when nothing does."""
    view = pools.get(pool, EMPTY)
    if view.workers == 0:
        return f"no worker of pool {pool!r} is running; start one with `batchmill worker --pool {pool}`"
    if operator not in view.operators:
        return (
            f"not every worker of pool {pool!r} has the operator {operator!r}; start them all with the same --operators"
        )
    return None
