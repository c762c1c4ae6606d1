"""Trials of settings: what pairs of batches show, guards, the share of a job, and what later jobs use."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from batchmill.insights.trials import TrialState
from batchmill.jobs.job import BatchPolicy
from batchmill_worker.batching.controller import Targets
from batchmill_worker.batching.evidence import MAX_PAIRS, BatchOutcome, Evidence, broken_by_failure, broken_guard
from batchmill_worker.batching.trials import GONE_AFTER_S, HELD_S, MAX_SHARE
from support.trial_device import TrialDevice

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = 200


def pairs(rng: Random, gain: float, noise: float) -> Iterator[tuple[float, float]]:
    """Times a unit of pairs on a machine whose speed drifts, with log-normal noise and batches that are disturbed."""
    drift = 0.0
    while True:
        times = []
        for _ in range(2):
            drift = 0.98 * drift + rng.gauss(0, noise / 4)
            slow = rng.uniform(1, 5) if rng.random() < 0.02 else 1.0
            times.append(slow * math.exp(drift + rng.gauss(0, noise)))
        if rng.random() < 0.5:
            times.reverse()
        yield times[0], times[1] * (1 - gain)


def outcome(rng: Random, gain: float, noise: float) -> Evidence:
    evidence = Evidence()
    for usual, candidate in pairs(rng, gain, noise):
        evidence = evidence.with_pair(usual, candidate)
        if evidence.state is not TrialState.RUNNING:
            return evidence
    raise AssertionError("pairs do not end")


@pytest.mark.parametrize("noise", [0.005, 0.04, 0.14])
def test_false_alarms_are_rare_where_nothing_differs(noise: float) -> None:
    rng = Random(16)
    states = [outcome(rng, 0.0, noise).state for _ in range(RUNS)]
    alarms = sum(state in (TrialState.WON, TrialState.LOST) for state in states)
    assert alarms <= 0.05 * RUNS


@pytest.mark.parametrize("noise", [0.005, 0.04])
def test_a_gain_of_a_tenth_is_found_within_forty_pairs(noise: float) -> None:
    rng = Random(16)
    found = [outcome(rng, 0.1, noise) for _ in range(RUNS)]
    assert all(one.state is TrialState.WON for one in found)
    assert statistics.quantiles([one.pairs for one in found], n=20)[-1] <= 40  # 95 of 100


def test_a_loss_is_found_as_well() -> None:
    rng = Random(16)
    assert all(outcome(rng, -0.1, 0.04).state is TrialState.LOST for _ in range(20))


def test_noise_that_hides_a_difference_ends_a_trial() -> None:
    ended = outcome(Random(2), 0.0, 0.5)
    assert (ended.state, ended.pairs) == (TrialState.UNDECIDED, MAX_PAIRS)


def test_an_interval_holds_in_19_of_20_trials_however_often_it_is_looked_at() -> None:
    rng, missed = Random(4), 0
    for _ in range(RUNS):
        evidence = Evidence()
        for _ in range(100):
            evidence = evidence.with_pair(1.0, math.exp(rng.gauss(0.03, 0.1)))
            if evidence.pairs >= 12 and abs(evidence.mean - 0.03) > evidence.half_width:
                missed += 1
                break
    assert missed <= 0.05 * RUNS


def test_guards_look_at_one_side_only() -> None:
    assert broken_guard(BatchOutcome(1.0, 5.0, 50.0, 100.0)) == ""
    assert broken_guard(BatchOutcome(6.0, 5.0)).startswith("latency")
    assert broken_guard(BatchOutcome(1.0, 5.0, 95.0, 100.0)).startswith("memory")
    assert broken_by_failure(out_of_memory=True, failures=1, usual_failures=9).startswith("memory")
    assert broken_by_failure(out_of_memory=False, failures=2, usual_failures=0).startswith("errors")
    assert broken_by_failure(out_of_memory=False, failures=2, usual_failures=1) == ""


def noisy(seed: int, fixed_s: float = 0.01, unit_s: float = 1e-4) -> TrialDevice:
    """Return a device on which the size of batches matters by no more than the fixed cost of each."""
    rng = Random(seed)
    return TrialDevice(lambda units: (fixed_s + unit_s * units) * math.exp(rng.gauss(0, 0.02)), seed=seed)


def cached(seed: int) -> TrialDevice:
    """Return a device on which batches of over 1,100 units take 25 % longer a unit: they do not fit into a cache."""
    rng = Random(seed)

    def seconds(units: float) -> float:
        return (0.005 + 1e-4 * units * (1.0 if units <= 1100 else 1.25)) * math.exp(rng.gauss(0, 0.02))

    return TrialDevice(seconds, seed=seed, candidates=(0.5,))


def test_a_smaller_size_that_is_faster_wins_and_is_used_by_later_jobs() -> None:
    device = cached(1)
    for _ in range(30):
        device.run(shards=2)
        (trial,) = device.journal() or (None,)
        if trial is not None and trial.state is not TrialState.RUNNING:
            break
    assert trial is not None
    assert trial.state is TrialState.WON
    assert (trial.low or 1) < (trial.ratio or 1) < (trial.high or 1) < 1
    assert trial.pairs <= 40
    assert device.trials.usual == trial.candidate == 0.5
    assert trial.expires_at == pytest.approx(trial.updated_at + HELD_S)
    later = TrialDevice(device.seconds, kept=[trial], clock=device.clock)
    later.run(shards=3)
    sizes = [later.controller.choose(batch_targets(later)).units for _ in range(20)]
    plain = [later.controller.choose(batch_targets(later, scale=1.0)).units for _ in range(20)]
    assert statistics.median(sizes) == pytest.approx(statistics.median(plain) / 2, rel=0.2)
    assert later.journal() == []  # what is known is not tried again
    later.clock.now_s += HELD_S
    assert later.trials.usual == 1.0
    later.run(job="job-2", shards=8)
    assert later.journal()


def batch_targets(device: TrialDevice, scale: float | None = None) -> Targets:
    return replace(Targets.of(BatchPolicy()), scale=device.trials.usual if scale is None else scale)


def test_at_most_a_twentieth_of_each_job_is_tried() -> None:
    device = noisy(3)
    for job in range(4):
        device.run(f"job-{job}", shards=5)
    assert any(trial.pairs for trial in device.journal())
    assert 0 < device.highest_share <= MAX_SHARE


def test_jobs_of_a_few_batches_have_no_trial() -> None:
    device = noisy(3)
    device.run("job-0", shards=1, rows=30_000)  # until sizes have settled
    before = device.highest_share
    for job in range(1, 30):
        device.run(f"job-{job}", shards=1, rows=9_000)
    assert before == device.highest_share == 0.0


def test_a_lack_of_memory_ends_a_trial_at_once_and_the_usual_size_stays() -> None:
    device = noisy(5)
    device.fails = lambda packed: packed.arm is not None and packed.arm.is_candidate
    device.run(shards=10)
    first = device.journal()[0]
    assert (first.state, first.pairs) == (TrialState.STOPPED, 0)
    assert first.why == "memory: a batch did not fit"
    assert device.trials.usual == 1.0


def test_a_batch_that_takes_too_long_ends_a_trial() -> None:
    device = noisy(6)
    usual = device.seconds
    device.seconds = lambda units: 9.0 if units > 4_000 else usual(units)
    device.run(shards=10)
    first = device.journal()[0]
    assert first.state is TrialState.STOPPED
    assert first.why.startswith("latency: a batch took 9 s")


def test_a_trial_whose_worker_is_gone_is_continued() -> None:
    device = noisy(7)
    device.run(shards=6)
    begun = device.journal()[0]
    assert begun.state is TrialState.RUNNING
    assert begun.pairs
    other = TrialDevice(device.seconds, seed=8, kept=[begun], clock=device.clock)
    other.run("job-2", shards=2)
    assert other.journal() == []  # it may still run
    other.clock.now_s += GONE_AFTER_S
    other.run("job-2", shards=6)
    continued = other.journal()[0]
    assert continued.id == begun.id
    assert continued.pairs > begun.pairs


def test_the_winner_of_another_worker_ends_the_trial_at_hand() -> None:
    device = noisy(7)
    device.run(shards=6)
    begun = device.journal()[0]
    won = begun.model_copy(
        update={"id": "trial-other", "state": TrialState.WON, "expires_at": device.clock.wall() + HELD_S}
    )
    device.trials.learn([won])
    assert device.trials.usual == won.candidate
    ended = next(trial for trial in device.journal() if trial.id == begun.id)
    assert ended.state is TrialState.UNDECIDED
    assert "trial-other" in ended.why
