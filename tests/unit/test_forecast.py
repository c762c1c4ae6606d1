"""How often the true time lies in the range that was told, over simulated runs; and how the estimate behaves."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from batchmill.ledger.formats.encodings import CommitInterval
from batchmill_coordinator.status.forecast import Forecast, Interval, RemainingWork, forecast, intervals_from, pace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARDS = 200
STEADY = [Interval(1.0, 100)] * 8


@dataclass(frozen=True)
class Fleet:
    """A made-up run: how many workers, at what rate (rows a second, by the share that is done), how evenly.

    change: at which shard the fleet becomes how large.
    """

    workers: int
    rate: Callable[[float], float]
    noise: Callable[[random.Random], float]
    change: tuple[int, int] | None = None

    def commits(self, chance: random.Random) -> list[tuple[float, int]]:
        """When how many rows were committed."""
        free = [(2.0 + chance.random() / 2, number) for number in range(self.workers)]
        heapq.heapify(free)
        commits = []
        for shard in range(SHARDS):
            if self.change is not None and shard == self.change[0]:
                free = self._changed(free, self.change[1])
            now, number = heapq.heappop(free)
            rows = 64 if shard < 8 else 320
            ends_at = now + rows / self.rate(shard / SHARDS) * self.noise(chance) + 0.05
            commits.append((ends_at, rows))
            heapq.heappush(free, (ends_at, number))
        return sorted(commits)

    def _changed(self, free: list[tuple[float, int]], workers: int) -> list[tuple[float, int]]:
        now = free[0][0]
        kept = sorted(free, reverse=True)[:workers] + [(now, 100 + n) for n in range(workers - len(free))]
        heapq.heapify(kept)
        return kept


def looks(commits: list[tuple[float, int]]) -> Iterator[tuple[float, Forecast | None]]:
    """What was told half way between each two commits, with the true time left; the ledger's part is done here."""
    total, ends_at, settled = sum(rows for _, rows in commits), commits[-1][0], 0
    kept: list[Interval] = []
    since, rows_since = commits[0][0], commits[0][1]
    for (at, rows), (following, _) in pairwise(commits):
        settled += rows
        if at - since >= max(1.0, at / 64):
            kept = [*kept, Interval(at - since, settled - rows_since)][-16:]
            since, rows_since = at, settled
        now = (at + following) / 2
        left = RemainingWork(total - settled, open=Interval(now - since, settled - rows_since))
        yield ends_at - now, forecast(kept, left)


def even(chance: random.Random) -> float:
    return chance.lognormvariate(0, 0.1)


def uneven(chance: random.Random) -> float:
    return chance.lognormvariate(0, 0.5)


def skewed(chance: random.Random) -> float:
    return min(chance.paretovariate(1.7), 20.0)


RUNS = {
    "even shards": (Fleet(4, lambda _: 100, even), 0.9),
    "uneven shards": (Fleet(4, lambda _: 100, uneven), 0.9),
    "a few very long shards": (Fleet(4, lambda _: 100, skewed), 0.75),
    "a single worker": (Fleet(1, lambda _: 100, uneven), 0.85),
    "rows that cost more and more": (Fleet(4, lambda done: 100 * (1 - done / 2), uneven), 0.75),
    "half of the workers leave": (Fleet(6, lambda _: 100, even, change=(80, 3)), 0.7),
    "more workers come": (Fleet(3, lambda _: 100, even, change=(60, 8)), 0.6),
}
"""How often the true time has to lie in the range: less often where what comes cannot be known."""


@pytest.mark.parametrize("name", RUNS)
def test_the_true_time_lies_in_the_range_as_often_as_it_should(name: str) -> None:
    fleet, least = RUNS[name]
    told = [look for seed in range(8) for look in looks(fleet.commits(random.Random(seed)))]
    ranges = [(true_s, made) for true_s, made in told if made is not None]
    inside = sum(made.low_s <= true_s <= made.high_s for true_s, made in ranges) / len(ranges)
    assert len(ranges) > 0.9 * len(told)
    assert inside >= least, f"{name}: {inside:.0%}"


def test_of_a_steady_run_the_estimate_is_right_and_the_range_narrow() -> None:
    told = [look for look in looks(RUNS["even shards"][0].commits(random.Random(1))) if look[1] is not None]
    middle = told[len(told) // 3 : len(told) // 2]
    for true_s, made in middle:
        assert made is not None
        assert made.eta_s == pytest.approx(true_s, rel=0.15)
        assert made.high_s - made.low_s < true_s


def test_nothing_is_told_until_there_are_two_intervals() -> None:
    assert forecast([], RemainingWork(100)) is None
    assert forecast(STEADY[:1], RemainingWork(100)) is None
    assert forecast(STEADY[:2], RemainingWork(100)) is not None
    assert pace_of([]) is None
    assert pace_of([Interval(1.0, 0)]) is None


def test_the_more_is_known_the_narrower_the_range() -> None:
    few, many = forecast(STEADY[:2], RemainingWork(1000)), forecast(STEADY, RemainingWork(1000))
    assert few is not None
    assert many is not None
    assert [few.eta_s, many.eta_s] == pytest.approx([10.0, 10.0])
    assert few.low_s < many.low_s < 10 < many.high_s < few.high_s


def test_the_time_left_goes_down_with_the_clock_between_commits_and_up_when_they_stay_away() -> None:
    at_once, soon, late, later = (
        forecast(STEADY, RemainingWork(1000, open=Interval(s, 0))) for s in (0.0, 0.5, 10.0, 100.0)
    )
    assert at_once is not None
    assert soon is not None
    assert late is not None
    assert later is not None
    assert soon.eta_s == pytest.approx(at_once.eta_s - 0.5)
    assert late.eta_s > at_once.eta_s
    assert later.eta_s > late.eta_s
    assert later.high_s / later.eta_s > at_once.high_s / at_once.eta_s


def test_a_new_pace_replaces_the_old_one_within_a_few_intervals() -> None:
    changed = pace_of([*STEADY, *[Interval(1.0, 400)] * 4])
    assert changed is not None
    assert changed.rate > 330


def test_a_total_that_is_a_guess_widens_the_range() -> None:
    sure, unsure = (
        forecast(STEADY, RemainingWork(10_000)),
        forecast(STEADY, RemainingWork(10_000, estimated_rows=10_000)),
    )
    assert sure is not None
    assert unsure is not None
    assert unsure.high_s > sure.high_s
    assert unsure.low_s < sure.low_s


def test_nothing_left_is_no_time_left() -> None:
    assert forecast(STEADY, RemainingWork(0)) == Forecast(0.0, 0.0, 0.0)


def test_intervals_are_read_as_the_ledger_keeps_them() -> None:
    assert intervals_from([CommitInterval(1500, 20), CommitInterval(2000, 0)]) == [Interval(1.5, 20), Interval(2.0, 0)]
    assert intervals_from([]) == []
