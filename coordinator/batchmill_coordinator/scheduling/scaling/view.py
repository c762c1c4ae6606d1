"""What the leader has decided and summed up of pools, as every coordinator answers it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.formats.work import PoolWork
from batchmill_coordinator.scheduling.scaling.decisions import MAX_POOLS, has_work, idle_scale
from batchmill_coordinator.scheduling.scaling.memory import ScaleMemory
from batchmill_coordinator.scheduling.scaling.usage import usage_of

if TYPE_CHECKING:
    from batchmill.fleet import PoolScale, PoolUsage
    from batchmill.ledger import Ledger
    from batchmill_coordinator.scheduling.scaling.targets import PoolTargets

log = logging.getLogger(__name__)


class ScaleView:
    """Reads from the ledger. currency: of costs."""

    def __init__(self, ledger: Ledger, targets: PoolTargets, currency: str) -> None:
        self._ledger = ledger
        self._targets = targets
        self._currency = currency

    def of(self, pool: str) -> PoolScale:
        """Return how many workers a pool needs. Raises `ServiceUnavailable` while nobody knows."""
        decision = self._ledger.scale.decision(pool)
        if decision is None:
            self._require_idle(pool)
            return idle_scale(pool, self._targets.of(pool))
        return decision

    def _require_idle(self, pool: str) -> None:
        """Raise `ServiceUnavailable` if there is work for a pool that had no place among those that are scaled."""
        if len(self._ledger.scale.decisions()) < MAX_POOLS:
            return
        if has_work(self._ledger.overview.work().pools.get(pool, PoolWork())):
            raise ServiceUnavailable(
                f"how many workers the pool {pool!r} needs is not known: {MAX_POOLS} other pools have workers or more "
                "work.",
                hint="Keep the workers that run, or start one: pools with workers come first.",
            )

    def usage(self, days: int) -> list[PoolUsage]:
        """Return what the workers of each pool cost in the last days, by pool. Raises `ServiceUnavailable`."""
        since = datetime.fromtimestamp(self._ledger.now_ms() / 1000, UTC).date() - timedelta(days=days - 1)
        memories = sorted(read_memories(self._ledger).items())
        return [usage_of(pool, memory.days, since, self._currency) for pool, memory in memories]


def read_memories(ledger: Ledger) -> dict[str, ScaleMemory]:
    """Return what is remembered of each pool. Raises `ServiceUnavailable`."""
    found: dict[str, ScaleMemory] = {}
    for pool, text in ledger.scale.memories().items():
        try:
            found[pool] = ScaleMemory.model_validate_json(text)
        except ValidationError as error:
            log.warning("what was remembered of pool %s cannot be read and is dropped: %.200s", pool, error)
    return found
