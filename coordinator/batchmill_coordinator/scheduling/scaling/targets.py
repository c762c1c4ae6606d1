"""What pools are to keep to when they are scaled: defaults from the settings, and a file with a table for each pool.

[gpu]
target_s = "10m"
max_machines = 8
max_cost_per_hour = 12.5
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from batchmill.durations import Span
from batchmill.errors import InvalidSettings
from batchmill.jobs.job import POOL_PATTERN
from batchmill.wording import fault_of
from batchmill_coordinator.scheduling.scaling.memory import StartTime
from batchmill_coordinator.scheduling.scaling.workers_wanted import ScaleTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTING = "BATCHMILL_SCALE_POOLS"


class PoolTarget(BaseModel):
    """The table of one pool. start_s: how long a worker takes to start; None: as measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_s: Annotated[float, Span(gt=0)] | None = None
    max_machines: int | None = Field(default=None, ge=0)
    max_cost_per_hour: float | None = Field(default=None, gt=0)
    start_s: Annotated[float, Span(ge=0)] | None = None


_TABLES = TypeAdapter(dict[str, PoolTarget])


class PoolTargets:
    """The targets of all pools.

    default_s: the target time of a pool without one of its own.
    assumed_start_s: how long a worker takes to start, until that is measured.
    """

    def __init__(self, default_s: float, assumed_start_s: float, pools: Mapping[str, PoolTarget] | None = None) -> None:
        self._default_s = default_s
        self._assumed_start_s = assumed_start_s
        self._pools = dict(pools or {})

    @classmethod
    def load(cls, path: str, default_s: float, assumed_start_s: float) -> Self:
        """Read the TOML file at `path`; "" is none. Raises `InvalidSettings`."""
        if not path:
            return cls(default_s, assumed_start_s)
        try:
            pools = _TABLES.validate_python(tomllib.loads(Path(path).read_text()))
        except ValidationError as error:
            raise _unfit(path, fault_of(error.errors()[0]).rstrip(".")) from None
        except (OSError, ValueError) as error:
            raise _unfit(path, str(error)) from None
        for name in pools:
            if not re.fullmatch(POOL_PATTERN, name):
                raise _unfit(path, f"{name!r} is no name of a pool")
        return cls(default_s, assumed_start_s, pools)

    def of(self, pool: str) -> ScaleTarget:
        """Return the target of a pool."""
        own = self._pools.get(pool, PoolTarget())
        return ScaleTarget(own.target_s or self._default_s, own.max_machines, own.max_cost_per_hour)

    def start_of(self, pool: str) -> StartTime:
        """Return what is known in advance of how long a worker of a pool takes to start."""
        return StartTime(self._pools.get(pool, PoolTarget()).start_s, self._assumed_start_s)


def _unfit(path: str, reason: str) -> InvalidSettings:
    return InvalidSettings(
        f"{SETTING}: {path}: {reason}.",
        hint="A table for each pool may have target_s, max_machines, max_cost_per_hour and start_s.",
        name=SETTING,
    )
