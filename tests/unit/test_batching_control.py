"""The batch controller against simulated devices, and against what Apache Beam publishes."""

from __future__ import annotations

import math
import statistics
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.jobs.job import BatchPolicy
from batchmill_worker.batching.controller import (
    HAND_OVER_S,
    PROBE_INTERVAL_BATCHES,
    WARM_UP_BATCHES,
    Controller,
    Reason,
    Targets,
)
from batchmill_worker.batching.cost_model import MAX_SAMPLE_AGE, MAX_SAMPLES, CostModel, Samples, Timing, fit
from batchmill_worker.batching.memory import CLEAN_BATCHES, MemoryCeiling, MemoryPeak, units_within

if TYPE_CHECKING:
    from collections.abc import Callable

COLD = (1.0, 99.0)


def warm_controller() -> Controller:
    controller = Controller(Random(0))
    for _ in range(WARM_UP_BATCHES):
        controller.ran(*COLD)
    return controller


def sizes(targets: Targets, count: int, seconds: Callable[[float], float]) -> list[int]:
    controller = warm_controller()
    chosen = []
    for _ in range(count):
        units = int(controller.choose(targets).units)
        controller.ran(units, seconds(units))
        chosen.append(units)
    return chosen


@pytest.mark.parametrize(
    ("targets", "published"),
    [
        (Targets(work_s=10), [1, 2, 4, 8, 14, 14]),
        (Targets(latency_s=10), [1, 2, 4, 8, 12, 12]),
        (Targets(overhead=0.05), [1, 2, 4, 8, 16, 27, 27]),
    ],
)
def test_sizes_are_those_that_beam_publishes_for_a_cost_of_one_and_seven_tenths_a_unit(
    targets: Targets, published: list[int]
) -> None:
    assert sizes(targets, len(published), lambda units: 1 + 0.7 * units) == published


def test_the_first_timings_of_a_process_are_not_believed() -> None:
    controller = warm_controller()
    assert controller.choose(Targets(overhead=0.05)).reason is Reason.STARTING
    assert not controller.profile().timings


@given(
    fixed=st.floats(1e-3, 1.0),
    per_unit=st.floats(1e-5, 1e-2),
    noise=st.sampled_from([0.0, 0.02]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=20)
def test_it_settles_within_five_percent_of_the_best_fixed_size(
    fixed: float, per_unit: float, noise: float, seed: int
) -> None:
    rng = Random(seed)
    controller, targets = Controller(rng), Targets(overhead=0.05, max_units=1e7)
    done = busy = 0.0
    for batch in range(120):
        units = controller.choose(targets).units
        true_s = fixed + per_unit * units
        controller.ran(units, true_s * (1 + abs(rng.gauss(0, noise))))
        if batch >= 40:
            done, busy = done + units, busy + true_s
    best = max(size / (fixed + per_unit * size) for size in (2.0**power for power in range(21)))
    assert done / busy >= 0.95 * best * (1 if not noise else 0.99)


@given(st.floats(1e-3, 0.5), st.floats(1e-5, 1e-2), st.floats(0.6, 4.0), st.integers(0, 50))
@settings(deadline=None, max_examples=15)
def test_no_batch_is_expected_to_take_longer_than_the_latency_a_job_asks_for(
    fixed: float, per_unit: float, latency_s: float, seed: int
) -> None:
    controller, targets = Controller(Random(seed)), Targets(overhead=0.05, latency_s=latency_s)
    for _ in range(50):
        units = controller.choose(targets).units
        controller.ran(units, fixed + per_unit * units)
    assert fixed + per_unit * controller.choose(targets).units <= max(latency_s, fixed + per_unit) * 1.001


def test_sizes_are_spread_once_enough_is_known_and_never_below_what_the_overhead_asks_for() -> None:
    chosen = sizes(Targets(overhead=0.05), 100, lambda units: 1 + 0.7 * units)[20:]
    large = [units for units in chosen if units >= 26]
    assert len(set(large)) > 5
    assert max(large) <= 27.2 * 1.15 / 0.85
    assert len(large) >= len(chosen) * (1 - 1 / PROBE_INTERVAL_BATCHES) - 1
    assert {units for units in chosen if units < 26} <= set(range(1, 12))


def crowded(rng: Random) -> float:
    """How much longer a batch takes beside others: half of them not at all, half of them three times on average."""
    return 1 + (rng.random() < 0.5) * rng.expovariate(0.5)


def cold(rng: Random, batch: int) -> float:
    """How much longer the first batches of a cold process take on a machine that is busy with starting others."""
    return 1 + 0.05 * abs(rng.gauss(0, 1)) + (batch < 25) * rng.expovariate(0.3)


@pytest.mark.parametrize("disturbance", [lambda rng, _: crowded(rng), cold], ids=["crowded", "cold"])
@pytest.mark.parametrize(("fixed", "per_unit"), [(0.004, 0.00013), (0.02, 0.00013), (0.2, 0.00002), (0.0, 0.001)])
def test_sizes_settle_near_the_right_one_however_a_crowded_machine_slows_batches_down(
    disturbance: Callable[[Random, int], float], fixed: float, per_unit: float
) -> None:
    right = (fixed + HAND_OVER_S) / per_unit * 19
    for seed in range(3):
        rng = Random(seed)
        controller, targets = Controller(rng), Targets.of(BatchPolicy())
        chosen = []
        for batch in range(120):
            units = max(controller.choose(targets).units, 1 if batch else 200)
            controller.ran(units, (fixed + per_unit * units) * disturbance(rng, batch))
            chosen.append(units)
        assert 0.7 * right <= statistics.median(chosen[-30:]) <= 2 * right


def test_the_largest_of_the_limits_is_named_as_the_reason() -> None:
    def reason(policy: BatchPolicy) -> Reason:
        controller = Controller(Random(1))
        for _ in range(40):
            units = controller.choose(Targets.of(policy)).units
            controller.ran(units, 0.01 + 0.001 * units)
        return controller.choose(Targets.of(policy)).reason

    assert reason(BatchPolicy()) is Reason.OVERHEAD
    assert reason(BatchPolicy(target_latency_s=0.05)) is Reason.LATENCY
    assert reason(BatchPolicy(max_units=20)) is Reason.MAX_UNITS


def test_a_batch_that_does_not_fit_lowers_the_ceiling_and_clean_ones_raise_it_slowly() -> None:
    ceiling = MemoryCeiling().after_failure(1000)
    assert ceiling.units == 800
    assert ceiling.after_failure(2000).units == 800
    for _ in range(CLEAN_BATCHES - 1):
        ceiling = ceiling.after_success()
    assert ceiling.units == 800
    assert ceiling.after_success().units == pytest.approx(840)
    assert math.isinf(MemoryCeiling().after_success().units)


def test_after_running_out_of_memory_batches_stay_under_the_ceiling() -> None:
    controller, targets = Controller(Random(3)), Targets(overhead=0.05)
    failures = 0
    for _ in range(120):
        units = controller.choose(targets).units
        if units > 100:
            failures += 1
            controller.record_oom(units)
        else:
            controller.ran(units, 1 + 0.001 * units)
    assert failures <= 6  # until the ceiling is found, and once for each time it has recovered too far
    assert controller.choose(targets).reason is Reason.MEMORY


def test_the_ceiling_is_learned_from_peaks_where_they_are_measured() -> None:
    peaks = [MemoryPeak(units, 1000 + 10 * units) for units in (1, 2, 4, 8, 16)]
    assert units_within(peaks, 10_000) == pytest.approx((9000 - 1000) / 10)
    assert math.isinf(units_within(peaks[:1], 10_000))
    controller, targets = Controller(Random(3)), Targets(overhead=0.05)
    for _ in range(60):
        units = controller.choose(targets).units
        assert 1000 + 10 * units <= 10_000
        controller.ran(units, 1 + 0.001 * units, peak_bytes=1000 + 10 * units, limit_bytes=10_000)
    assert controller.choose(targets).reason is Reason.MEMORY


def test_outliers_do_not_move_the_fit() -> None:
    clean = [Timing(units, 1 + 0.5 * units) for units in range(1, 51)]
    odd = [Timing(units, 40 + 0.5 * units) for units in range(3, 40, 7)]
    model = fit(clean + odd)
    assert model is not None
    assert (model.fixed_s, model.per_unit_s) == pytest.approx((1, 0.5), rel=0.01)


def test_one_size_alone_makes_no_model_and_times_that_fall_with_size_still_make_one() -> None:
    assert fit([]) is None
    assert fit([Timing(4, 1.0)] * 20) is None
    model = fit([Timing(units, 10 - units) for units in range(1, 9)])
    assert model is not None
    assert model.per_unit_s > 0


def test_samples_are_bounded_and_rare_sizes_are_kept() -> None:
    samples = Samples([Timing(1, 0.1), Timing(2, 0.2), *(Timing(1000 + number, 1.0) for number in range(500))])
    kept = list(samples)
    assert len(kept) == MAX_SAMPLES
    assert [timing.units for timing in kept[:2]] == [1, 2]
    assert kept[-1].units == 1499
    samples.add(Timing(1, 0.1))
    for number in range(MAX_SAMPLE_AGE):
        samples.add(Timing(1000 + number, 1.0))
    assert min(timing.units for timing in samples) >= 1000


def test_a_new_process_starts_at_the_size_that_others_have_learned() -> None:
    first, targets = Controller(Random(0)), Targets(overhead=0.05)
    for _ in range(40):
        units = first.choose(targets).units
        first.ran(units, 1 + 0.7 * units)
    assert first.is_changed
    second = Controller(Random(1), first.profile())
    assert not first.is_changed
    choice = second.choose(targets)
    assert choice.reason is Reason.OVERHEAD
    assert 27 <= choice.units <= 27.2 * 1.15 / 0.85


def test_a_model_answers_how_large_how_long_and_how_dear() -> None:
    model = CostModel(1.0, 0.5)
    assert model.seconds(10) == 6
    assert model.units_within_overhead(0.05) == pytest.approx(38)
    assert model.units_within(6) == 10
    assert model.units_of_work(5) == 10
