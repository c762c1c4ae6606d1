"""What a scaling decision needs beside the present work: what arrived, what was wanted, how long starts take.

The leader keeps it in the ledger, so that another one continues with it. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchmill.jobs.frozen import Frozen
from batchmill_coordinator.scheduling.scaling.usage import DayUsage  # of a field, which pydantic reads

if TYPE_CHECKING:
    from collections.abc import Sequence

ARRIVAL_WINDOW_S = 600.0  # over which arriving work is averaged
START_WEIGHT = 0.3  # of the latest start
MAX_STARTS_LATE = 3.0
"""A worker that has not appeared after that many times the usual start is not expected any more."""
MIN_EXPECTED_S = 60.0  # for which a worker is expected at least
MAX_RAISES = 100


class Raise(Frozen):
    """Workers that were wanted from one moment on and are not there yet. at_s: seconds since the epoch."""

    at_s: float
    workers: int


class StartTime(NamedTuple):
    """How long a worker takes to start, with the model, seconds: as given, else until it is measured.

    150 s are a node, a pod and a model.
    """

    given_s: float | None = None
    assumed_s: float = 150.0


class ScaleMemory(Frozen):
    """The memory of one pool. Times are seconds since the epoch, by the ledger's clock.

    total_s: device time spent and left, when it was noted last; what it has grown by has arrived.
    need_since: the largest numbers that were wanted in the last start time, falling, with when each was wanted last.
    """

    at_s: float
    total_s: float
    spent_s: float = 0.0  # of it, what was spent
    arriving: float = 0.0  # device seconds a second
    ready: int = 0
    raises: tuple[Raise, ...] = ()
    needs: tuple[tuple[float, int], ...] = ()
    start: StartTime = StartTime()
    start_s: float | None = None  # measured: from when a worker was wanted until it was announced; None: never
    load_s: float = 0.0  # of the slowest model, as seen last
    days: tuple[DayUsage, ...] = ()
    machine_workers: int = 1
    price_per_hour: float = 0.0

    @property
    def usual_start_s(self) -> float:
        """How long it takes until a wanted worker works."""
        if self.start.given_s is not None:
            return self.start.given_s
        return self.start.assumed_s if self.start_s is None else self.start_s + self.load_s

    def ages(self, now_s: float) -> list[float]:
        """Return for how long each of the workers that are not there yet has been starting."""
        return [max(now_s - one.at_s, 0.0) for one in self.raises for _ in range(one.workers)]


def noted_work(before: ScaleMemory | None, spent_s: float, left_s: float, now_s: float) -> ScaleMemory:
    """Note the device time spent so far and left now.

    What both together have grown by has arrived: new jobs, rows that a source turned out to have, interactive requests.
    It is averaged over `ARRIVAL_WINDOW_S`. Work that is dropped, or found to take less, counts against it.
    """
    total_s = spent_s + left_s
    if before is None:
        return ScaleMemory(at_s=now_s, total_s=total_s, arriving=max(left_s, 0.0) / ARRIVAL_WINDOW_S)
    passed_s = max(now_s - before.at_s, 0.0)
    share = min(passed_s / ARRIVAL_WINDOW_S, 1.0)
    arrived = (total_s - before.total_s) / max(passed_s, ARRIVAL_WINDOW_S)
    arriving = max(before.arriving * (1 - share) + arrived, 0.0)
    return before.model_copy(update={"at_s": now_s, "total_s": total_s, "arriving": arriving})


def noted_workers(memory: ScaleMemory, ready: int, now_s: float) -> ScaleMemory:
    """Note how many workers are there. Those that have come are no longer starting, and show how long a start takes."""
    come, start_s, raises = ready - memory.ready, memory.start_s, list(memory.raises)
    while come > 0 and raises:
        oldest = raises[0]
        taken = min(come, oldest.workers)
        come -= taken
        took_s = max(now_s - oldest.at_s, 0.0)
        start_s = took_s if start_s is None else (1 - START_WEIGHT) * start_s + START_WEIGHT * took_s
        raises = [*([] if taken == oldest.workers else [_with(oldest, oldest.workers - taken)]), *raises[1:]]
    late_s = max(MAX_STARTS_LATE * memory.usual_start_s, MIN_EXPECTED_S)
    kept = tuple(one for one in raises if now_s - one.at_s <= late_s)
    return memory.model_copy(update={"ready": ready, "start_s": start_s, "raises": kept})


def noted_need(memory: ScaleMemory, need: int, now_s: float) -> ScaleMemory:
    """Note how many workers are wanted now. Those beyond the ones that are there are starting from now on.

    As many are taken to start as whoever starts them holds: the largest number of the last start time.
    """
    falling = [one for one in memory.needs if one[1] > need and one[0] >= now_s - memory.usual_start_s]
    needs = (*falling, (now_s, need))
    missing, starting = needs[0][1] - memory.ready, sum(one.workers for one in memory.raises)
    raises = memory.raises
    if missing > starting:
        raises = (*raises, Raise(at_s=now_s, workers=missing - starting))[-MAX_RAISES:]
    elif missing < starting:
        raises = _first(raises, max(missing, 0))
    return memory.model_copy(update={"needs": needs, "raises": raises})


def _first(raises: Sequence[Raise], workers: int) -> tuple[Raise, ...]:
    """Keep the workers that have been starting for the longest time; the others are no longer wanted."""
    kept: list[Raise] = []
    for one in raises:
        taken = min(one.workers, workers)
        workers -= taken
        if taken:
            kept.append(_with(one, taken))
    return tuple(kept)


def _with(one: Raise, workers: int) -> Raise:
    return one.model_copy(update={"workers": workers})
