"""A device with a made-up time of batches, for trials: `Batching` chooses sizes for it and learns from it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np

from batchmill_worker.batching.controller import Controller
from batchmill_worker.batching.packing import Window
from batchmill_worker.batching.sizing import Batching
from batchmill_worker.batching.trials import CANDIDATES, Subject, Trials
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill.insights.trials import Trial
    from batchmill_worker.batching.packing import Packed

SUBJECT = Subject("embed", "c0ffee", "cpux2")


class TrialDevice:
    """One worker. seconds: of a batch of so many units. shares: of a job's units, those with the candidate, highest."""

    def __init__(
        self,
        seconds: Callable[[float], float],
        *,
        seed: int = 0,
        candidates: Sequence[float] = CANDIDATES,
        kept: Sequence[Trial] = (),
        clock: HandClock | None = None,
    ) -> None:
        self.clock = clock or HandClock()
        self.trials = Trials(SUBJECT, Random(seed), self.clock, kept, candidates)
        self.controller = Controller(Random(seed + 1))
        self.seconds = seconds
        self.fails: Callable[[Packed], bool] = lambda _: False
        self.highest_share = 0.0

    def run(self, job: str = "job-1", *, shards: int = 10, rows: int = 50_000) -> None:
        """Run a job's shards of so many rows, each of one unit."""
        units = tried = 0.0
        for _ in range(shards):
            window = Window(rows, lambda start, end: np.ones(end - start), padded=False)
            batching = Batching(controller=self.controller, trials=self.trials, job=job)
            while (packed := batching.take(window, "auto")) is not None:
                units += packed.units
                if packed.arm is not None and packed.arm.is_candidate:
                    tried += packed.units
                    self.highest_share = max(self.highest_share, tried / units)
                if self.fails(packed):
                    batching.failed(packed, out_of_memory=True)
                    continue
                seconds = self.seconds(packed.units)
                self.clock.now_s += seconds
                batching.ran(packed, seconds)

    def journal(self) -> list[Trial]:
        """Return the trials that have begun, the latest last."""
        return self.trials.unsaved()
