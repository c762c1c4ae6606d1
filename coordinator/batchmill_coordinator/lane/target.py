"""What an interactive request is for: an operator with parameters in a pool, and who has it loaded. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchmill.errors import ModelNotLoaded
from batchmill.operators.model_key import model_key

if TYPE_CHECKING:
    from batchmill.operators.contract import OperatorInfo
    from batchmill_coordinator.fleet.pools import PoolView

LOAD_S = 2.0
"""How long loading a model takes at least, until others know of it."""
MAX_RETRY_S = 10.0
"""How long a client is asked to wait at most: the slowest model says little about this one."""


@dataclass(frozen=True, slots=True)
class LaneTarget:
    """An operator with parameters in a pool. model: its key. title: what users call it, for messages and metrics."""

    pool: str
    operator: str
    params: dict[str, Any]
    model: str
    title: str

    @classmethod
    def of(cls, operator: OperatorInfo, params: dict[str, Any], pool: str, title: str = "") -> LaneTarget:
        """Make the target for an operator that was announced."""
        return cls(pool, operator.name, params, model_key(operator, params), title or operator.name)


def workers_of(pool: PoolView | None) -> frozenset[str]:
    """Return the names of the workers of a pool."""
    return frozenset(worker.name for worker in pool.members) if pool else frozenset()


def is_loaded(target: LaneTarget, pool: PoolView | None) -> bool:
    """Return whether a worker has the model loaded."""
    return pool is not None and any(target.model in worker.models for worker in pool.members)


def loading_in(target: LaneTarget, pool: PoolView | None) -> int:
    """Return how many workers are loading the model."""
    return sum(target.model in worker.loading for worker in pool.members) if pool else 0


def not_loaded(target: LaneTarget, pool: PoolView | None) -> ModelNotLoaded:
    """Return the error for a model that no worker has loaded, with when to try again."""
    if pool is None or not pool.members:
        return ModelNotLoaded(
            f"no worker of pool {target.pool!r} is running, so {target.title!r} cannot be loaded.",
            hint="Start one, or see `batchmill workers`.",
            state="requested",
            workers=0,
            retry_after_s=math.ceil(LOAD_S),
        )
    loading = loading_in(target, pool)
    expected_s = max(LOAD_S, *(worker.load_s for worker in pool.members))
    return ModelNotLoaded(
        f"the model {target.title!r} is being loaded." if loading else f"the model {target.title!r} is to be loaded.",
        hint="Try again in a moment.",
        state="loading" if loading else "requested",
        workers=loading,
        retry_after_s=math.ceil(min(expected_s, MAX_RETRY_S)),
    )
