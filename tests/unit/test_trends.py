"""Whether an operator has become slower: what noise explains is no change, and a change names what changed with it."""

from __future__ import annotations

import json
import random

import pytest

from batchmill.ledger.workers.trends import StoredPoint, TrendName
from batchmill_coordinator.status.trends import BEFORE, MIN_BEFORE, shift_at, sorted_trends, trend_of

NAME = TrendName("embed", "c0ffee", "cpux2")
RUNS, SHIFT_AT, WINDOWS = 160, 120, 25


def runs(noise: float, seed: int, factor: float = 1.0, count: int = RUNS) -> list[float]:
    """Seconds a unit of jobs on a machine with log-normal noise, with a shift."""
    rng = random.Random(seed)
    return [rng.lognormvariate(0, noise) * (factor if place >= SHIFT_AT else 1.0) for place in range(count)]


def alarm(values: list[float]) -> int | None:
    """After how many jobs a change is shown for the first time, if one looks after every third."""
    return next((now for now in range(3, len(values) + 1, 3) if shift_at(values[:now]) is not None), None)


def points(values: list[float], *, revision: int = 10**9, padding: float = 0.1) -> list[StoredPoint]:
    found = []
    for place, value in enumerate(values):
        facts = {"operator": "2" if place >= revision else "1", "host": "a"}
        share = padding if place >= revision else 0.1
        us = round(value * 1e6)
        found.append(
            StoredPoint(
                job=f"job-{place}",
                at=1000 * place,
                units=1000.0,
                useful_us=us - round(share * us),
                padding_us=round(share * us),
                idle_us=0,
                facts=json.dumps(facts),
            )
        )
    return found


@pytest.mark.parametrize(("noise", "most"), [(0.005, 0), (0.02, 0.1), (0.04, 0.1)])
def test_noise_is_no_change(noise: float, most: float) -> None:
    alarms = sum(alarm(runs(noise, seed)) is not None for seed in range(WINDOWS))
    assert alarms <= most * WINDOWS


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize(("noise", "least", "delay"), [(0.005, 1.0, 6), (0.04, 0.75, 15)])
def test_a_shift_of_a_tenth_is_found_after_some_jobs(factor: float, noise: float, least: float, delay: int) -> None:
    found = [alarm(runs(noise, seed, factor)) for seed in range(WINDOWS)]
    late = sorted(at - SHIFT_AT for at in found if at is not None and at > SHIFT_AT)
    assert len(late) >= least * WINDOWS
    assert late[len(late) // 2] <= delay


def test_it_is_said_where_the_shift_began() -> None:
    for seed in range(20):
        values = runs(0.01, seed, 1.2, SHIFT_AT + 6)
        place = shift_at(values)
        assert place is not None
        assert abs(place - SHIFT_AT) <= 1


def test_single_disturbed_jobs_and_few_jobs_are_no_change() -> None:
    values = runs(0.005, 1)
    for place in (60, 90, 130, 157):
        values[place] *= 3
    assert shift_at(values) is None
    assert shift_at([1.0] * (MIN_BEFORE - 1) + [2.0] * 5) is None
    assert shift_at([1.0] * MIN_BEFORE + [2.0] * 5) == MIN_BEFORE
    assert shift_at([]) is None


def test_what_was_undone_and_what_has_become_usual_are_no_change() -> None:
    assert shift_at([1.0] * 40 + [1.3] * 10 + [1.0] * 10) is None
    assert shift_at([1.0] * 40 + [1.3] * 10) == 40
    assert shift_at([1.0] * 40 + [1.3] * (2 * BEFORE)) is None


def test_a_change_names_what_changed_with_it() -> None:
    trend = trend_of(NAME, points([1.0] * 40 + [1.4] * 6, revision=40, padding=0.4), with_points=False)
    assert trend is not None
    assert trend.shift is not None
    assert trend.shift.ratio == pytest.approx(1.4)
    assert (trend.shift.at, trend.jobs, trend.points) == (40.0, 46, [])
    assert trend.unit_s == pytest.approx(1.4 / 1000)
    assert trend.shift.changed == ["operator: 1 → 2", "padding: 10% → 40%"]
    assert trend.changed_names == "operator, padding"


def test_what_became_slower_is_shown_first() -> None:
    slower, faster, same = (
        trend_of(TrendName(name, "c0ffee", "cpu"), points([1.0] * 40 + [factor] * 6), with_points=True)
        for name, factor in (("slower", 1.4), ("faster", 0.7), ("same", 1.0))
    )
    assert slower is not None
    assert faster is not None
    assert same is not None
    assert len(slower.points) == 46
    assert [one.operator for one in sorted_trends([same, faster, slower])] == ["slower", "faster", "same"]
    assert trend_of(NAME, [], with_points=True) is None
