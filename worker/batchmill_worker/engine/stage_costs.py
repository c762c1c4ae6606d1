"""Measures what rows cost in each stage, all of the operator's hooks included, and shares it with the coordinator.

Unlike the profiles of batches, it is about complete attempts, in rows: what a stage that runs apart takes, without the
time in which its rows are read and its results stored.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from batchmill.caches import Lru
from batchmill.clock import Clock, SystemClock
from batchmill.errors import ServiceUnavailable
from batchmill.jobs.shard import FIRST_ROWS
from batchmill.jobs.stage_cost import StageCost, stage_cost_name

if TYPE_CHECKING:
    from batchmill.jobs.job import StageSpec
    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.engine.controllers import ProfileStore

log = logging.getLogger(__name__)

MAX_STAGES = 64
MAX_SAMPLES = 8  # attempts
SAVE_INTERVAL_S = 5.0


@dataclass(slots=True)
class _Measured:
    """Seconds a row of the last attempts."""

    samples: deque[StageCost] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    shared: StageCost | None = None
    shared_at: float = float("-inf")  # monotonic

    def has_changed(self, cost: StageCost) -> bool:
        """Whether a cost is so far from the one that is shared that it should be shared at once."""
        known = self.shared
        return known is None or cost.low_s <= known.low_s / 2 or cost.high_s >= 2 * known.high_s


class StageCosts:
    """The costs of recent stages, in one process. Thread-safe."""

    def __init__(self, store: ProfileStore, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._measured: Lru[str, _Measured] = Lru(MAX_STAGES)

    def add(self, definition: OperatorDefinition, stage: StageSpec, rows: int, seconds: float) -> None:
        """Add an attempt that computed some rows, and share the cost if it has changed much, and now and then.

        A failure to do so is only logged.
        """
        name = stage_cost_name(stage, definition.version)
        with self._lock:
            known = self._measured.get_or_make(name, _Measured)
            known.samples.append(StageCost(seconds / rows, seconds / max(rows, FIRST_ROWS)))
            low_s, high_s = min(one.low_s for one in known.samples), max(one.high_s for one in known.samples)
            cost, now = StageCost(low_s, high_s), self._clock.monotonic()
            if not known.has_changed(cost) and now - known.shared_at < SAVE_INTERVAL_S:
                return
            known.shared, known.shared_at = cost, now
        try:
            self._store.write(name, cost.to_text())
        except ServiceUnavailable as error:
            log.warning("what rows of stage %r cost is not shared yet: %s", stage.title, error)
