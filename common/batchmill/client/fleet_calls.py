"""What a client asks about workers, pools and operators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from batchmill.client.connection.answers import OperatorsAnswer, PoolsAnswer, PoolUsageAnswer, WorkersAnswer
from batchmill.fleet import PoolScale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.fleet import PoolStatus, PoolUsage, WorkerInfo
    from batchmill.operators.contract import OperatorInfo

M = TypeVar("M", bound=BaseModel)


class FleetCalls(ABC):
    """A part of `AsyncClient`."""

    @abstractmethod
    async def _get(self, model: type[M], path: str, query: Mapping[str, str] | None = None) -> M:
        """Return the answer of the service. query: of the URL."""

    async def workers(self) -> list[WorkerInfo]:
        """List the workers that are alive.

        Returns:
            One entry per worker: name, pool, device, operators, running attempts.
        """
        return (await self._get(WorkersAnswer, "/v1/workers")).workers

    async def pools(self) -> list[PoolStatus]:
        """List the pools that have workers or jobs.

        Returns:
            One entry per pool: its capacity, and the shards and rows that run and wait.
        """
        return (await self._get(PoolsAnswer, "/v1/pools")).pools

    async def scale(self, pool: str) -> PoolScale:
        """Return how many workers a pool needs, and why.

        Args:
            pool: The name of the pool; one without workers and work needs none.

        Returns:
            The number of workers and of machines. Raises `ServiceUnavailable` while the service does not know.
        """
        return await self._get(PoolScale, f"/v1/pools/{quote(pool, safe='')}/scale")

    async def pool_usage(self, days: int = 7) -> list[PoolUsage]:
        """Compare what the workers of each pool cost with what would have been enough.

        Args:
            days: Today and the days before, UTC, 1 to 14.

        Returns:
            One entry per pool: worker hours, money, and advice.
        """
        return (await self._get(PoolUsageAnswer, "/v1/pools/usage", {"days": str(days)})).pools

    async def operators(self) -> list[OperatorInfo]:
        """List the operators that the workers have loaded.

        Returns:
            One entry per operator: name, summary, required columns, and its parameters as JSON Schema.
        """
        return (await self._get(OperatorsAnswer, "/v1/operators")).operators
