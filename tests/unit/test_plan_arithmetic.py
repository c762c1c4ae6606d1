"""What a job takes, from what rounds over a sample of it took."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from batchmill.insights.plans import Estimate, Plan, PlanOutcome, PlanState
from batchmill.jobs.job import StageSpec
from batchmill_coordinator.fleet.device_paces import relative_times
from batchmill_coordinator.planning import arithmetic
from batchmill_coordinator.planning.arithmetic import (
    next_rows,
    past,
    planned_stages,
    row_cost,
    row_work,
    shard_rows,
    start_s,
    wilson,
)
from batchmill_coordinator.planning.record import Round, StageRound


def round_of(rows: int, row_s: float, *, dead: int = 0, load_s: float = 0.0, seconds: float = 0.0) -> Round:
    """A round of one stage."""
    stage = StageRound(
        rows=rows,
        dead=dead,
        results=rows - dead,
        work_us=round(rows * row_s * 1e6),
        load_us=round(load_s * 1e6),
        nano=round(rows * row_s * 1e9 / 3600),
    )
    return Round(rows=rows, seconds=seconds, stages=(stage,), errors={"ValueError": dead} if dead else {})


def outcome(actual: float, planned: float) -> PlanOutcome:
    said = Estimate.around(planned, 0.1)
    return PlanOutcome(
        device_s=actual, planned_device_s=said, seconds=actual, planned_s=said, cost=actual, planned_cost=said
    )


def plan(**fields: Any) -> Plan:
    return Plan(id="plan-1", state=PlanState.READY, title="embed", created_at=0.0, **fields)


def test_the_warm_up_sizes_the_rounds_of_which_two_are_small() -> None:
    assert next_rows([], kept=20_000, taken=0, total=100_000) == 128
    warm_up = round_of(128, 0.01)
    rounds = [warm_up]
    while rows := next_rows(rounds, kept=20_000, taken=sum(one.rows for one in rounds), total=100_000):
        rounds.append(round_of(rows, 0.01))
    large, small = rounds[1].rows, rounds[2].rows
    assert [one.rows for one in rounds[1:]] == [large, small, small, large]
    assert small == large // arithmetic.SMALL
    assert sum(one.rows for one in rounds[1:]) * 0.01 == pytest.approx(arithmetic.SAMPLE_S, rel=0.01)


def test_a_sample_is_a_small_part_of_a_small_job_and_never_more_than_there_is() -> None:
    rows = next_rows([round_of(128, 0.01)], kept=4000, taken=128, total=4000)
    assert 2 * (rows + rows // arithmetic.SMALL) == pytest.approx(400, rel=0.02)
    few = [round_of(2, 0.01)]
    assert next_rows([], kept=10, taken=0, total=10) == 2
    assert next_rows(few, kept=10, taken=2, total=10) == 3
    assert next_rows([], kept=1, taken=0, total=1) == 1
    assert next_rows([round_of(1, 0.01)], kept=1, taken=1, total=1) == 0


def test_rounds_grow_while_rows_take_less_than_half_of_what_the_round_before_said() -> None:
    """Shards of a few rows that cost next to nothing: each takes 30 ms, and a row 10 µs."""
    rounds: list[Round] = []
    while rows := next_rows(rounds, kept=20_000, taken=sum(one.rows for one in rounds), total=20_000):
        rounds.append(round_of(rows, 0.03 / rows + 1e-5))
    sizes = [one.rows for one in rounds]
    small = sizes[-1] // arithmetic.SMALL
    assert sizes[-arithmetic.ROUNDS :] == [sizes[-1], small, small, sizes[-1]]
    assert len(sizes) <= 1 + arithmetic.MAX_WARM_UPS + arithmetic.ROUNDS
    assert sum(sizes) <= 20_000
    assert sizes[-1] > 3000
    assert row_work(rounds, []).value == pytest.approx(1e-5, rel=0.01)
    assert row_work(rounds, [], 1000).value == pytest.approx(4e-5, rel=0.01)


def test_the_costs_of_a_shard_are_those_of_the_shards_that_the_job_has() -> None:
    """A row takes 10 ms, and each shard 200 ms more: 9 % too much if rounds of 250 rows were taken as they are."""
    rounds = [round_of(rows, 0.01 + 0.2 / rows) for rows in (128, 250, 83, 83, 250)]
    for workers in (1, 8):
        rows = shard_rows(rounds, 5000, workers, 5.0)
        shards = 5000 / rows
        assert row_work(rounds, [], rows).value * 5000 == pytest.approx(50 + 0.2 * shards, rel=1e-4)
    assert shard_rows(rounds, 10_000_000, 1, 5.0) == pytest.approx(430, rel=0.05)
    assert shard_rows(rounds, 0, 1, 5.0) == 1


def test_padding_counts_less_where_neighbours_are_alike() -> None:
    stage = StageRound(rows=100, dead=0, results=100, work_us=1_000_000, load_us=0, nano=0, padding_us=200_000)
    rounds = [Round(rows=100, seconds=1.0, stages=(stage,), errors={})] * 5
    assert [row_work(rounds, [], alike=alike).value for alike in (0.0, 0.5, 1.0)] == pytest.approx([0.01, 0.009, 0.008])


def test_rounds_that_cost_less_the_fewer_rows_they_have_say_nothing_about_shards() -> None:
    rounds = [
        round_of(128, 0.02),
        *(round_of(rows, took) for rows, took in ((90, 1.1), (30, 0.9), (30, 1.0), (90, 1.0))),
    ]
    assert row_work(rounds, []).value == row_work(rounds, [], 30).value == pytest.approx(1.0)
    noise = [
        round_of(128, 0.02),
        *(round_of(rows, took) for rows, took in ((90, 1.0), (30, 4.0), (30, 4.0), (90, 1.2))),
    ]
    assert row_work(noise, []).value == pytest.approx(1.1)


def test_the_warm_up_does_not_count_where_there_are_rounds() -> None:
    rounds = [round_of(128, 5.0), *[round_of(100, 0.01)] * 4]
    assert row_work(rounds, []).value == pytest.approx(0.01)
    assert row_work([round_of(1, 5.0)], []).value == pytest.approx(5.0)


def test_the_interval_holds_in_four_of_five_of_noisy_jobs() -> None:
    rng = random.Random(5)
    held = 0
    for _ in range(500):
        rounds = [round_of(128, 0.02), *(round_of(100, 0.01 * rng.lognormvariate(0, 0.08)) for _ in range(4))]
        actual = 0.01 * rng.lognormvariate(0, arithmetic.PRIOR_SPREAD)
        held += row_work(rounds, []).holds(actual)
    assert 0.8 <= held / 500 <= 0.97


def test_plans_that_were_wrong_widen_the_intervals_of_later_ones() -> None:
    rounds = [round_of(128, 0.02), *[round_of(100, 0.01)] * 4]
    wrong = [outcome(130, 100), outcome(75, 100), outcome(140, 100), outcome(70, 100)]
    right = [outcome(101, 100), outcome(99, 100), outcome(100, 100), outcome(101, 100)]
    high = [row_work(rounds, outcomes).high for outcomes in (right, [], wrong)]
    assert high == sorted(high)
    assert row_work(rounds, wrong).holds(0.013)
    assert not row_work(rounds, right).holds(0.013)


def test_past_plans_are_summarized() -> None:
    found = past([outcome(104, 100), outcome(130, 100), outcome(95, 100)])
    assert found is not None
    assert (found.plans, found.within) == (3, 2)
    assert found.median_error == pytest.approx(0.05)
    assert past([]) is None


def test_the_time_with_more_workers_has_their_loads_and_a_last_shard() -> None:
    made = plan(
        work=Estimate(value=800.0, low=700.0, high=900.0),
        work_by_pool={"default": 800.0},
        load_s=20.0,
        start_s=1.0,
        workers=1,
    )
    assert made.seconds_with(1) == Estimate(value=801.0, low=701.0, high=901.0)
    assert made.seconds_with(4).value == pytest.approx(1 + 200 + 20 + 0.25)
    enough = made.workers_within(130.0)
    assert enough == 8
    assert made.seconds_with(8).value <= 130 < made.seconds_with(7).value
    assert made.workers_within(5.0) is None


def test_pools_work_side_by_side() -> None:
    made = plan(work=Estimate(value=100.0, low=90.0, high=110.0), work_by_pool={"cpu": 20.0, "gpu": 80.0}, workers=1)
    assert made.seconds_with(1).value == pytest.approx(80.0)


def test_stages_are_scaled_by_the_rows_of_the_source() -> None:
    first = StageRound(rows=100, dead=10, results=360, work_us=1_000_000, load_us=0, nano=10)
    second = StageRound(rows=360, dead=0, results=360, work_us=9_000_000, load_us=0, nano=90)
    rounds = [Round(rows=100, seconds=10.5, stages=(first, second), errors={"ValueError": 10})] * 5
    chunk, embed = planned_stages([StageSpec(operator="chunk"), StageSpec(operator="embed")], rounds, 10_000, 1000)
    assert (chunk.rows, embed.rows) == (10_000, 36_000)
    assert (chunk.seconds, embed.seconds) == pytest.approx((100.0, 900.0))
    assert chunk.failing.value == pytest.approx(1000)
    assert chunk.failing.low < 1000 < chunk.failing.high
    assert embed.failing.low == embed.failing.value == 0 < embed.failing.high
    assert arithmetic.errors(rounds) == {"ValueError": 50}


def test_what_a_job_does_beside_its_rows_is_the_least_of_the_rounds() -> None:
    rounds = [round_of(128, 0.02, seconds=9.0), round_of(100, 0.01, seconds=1.3), round_of(100, 0.01, seconds=1.1)]
    assert start_s(rounds, 1) == pytest.approx(0.1)
    assert row_cost(rounds) == pytest.approx(1 / 3600)


def test_the_share_of_failing_rows_has_the_interval_of_wilson() -> None:
    share = wilson(10, 1000)
    assert (share.value, share.low, share.high) == pytest.approx((0.01, 0.0067, 0.0149), abs=2e-4)
    assert wilson(0, 50).high == pytest.approx(0.032, abs=1e-3)


def test_devices_are_compared_by_their_large_batches() -> None:
    slow = [(10.0, 1.0 + 0.1 * 10), (1000.0, 1.0 + 0.1 * 1000), (2000.0, 1.0 + 0.1 * 2000)]
    fast = [(units, seconds / 4) for units, seconds in slow]
    assert relative_times({"cpu": slow, "gpu": fast, "new": []}) == pytest.approx({"gpu": 1.0, "cpu": 4.0})


def test_an_interval_is_as_wide_on_both_sides_of_the_logarithm() -> None:
    found = Estimate.around(10.0, math.log(2))
    assert (found.low, found.high) == pytest.approx((5.0, 20.0))
