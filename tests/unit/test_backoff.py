"""The waits between tries."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.backoff import Backoff
from batchmill.broker import kombu_waits
from batchmill.ledger.scripting.connection import RedisBackoff

SECONDS = st.floats(0.001, 1000.0)


@given(base_s=SECONDS, max_s=SECONDS, failures=st.integers(1, 10_000), seed=st.integers())
def test_a_wait_is_within_zero_and_a_ceiling_that_doubles_up_to_the_cap(
    base_s: float, max_s: float, failures: int, seed: int
) -> None:
    backoff = Backoff(base_s, max_s)
    ceiling = backoff.ceiling_s(failures)
    assert 0.0 <= backoff.delay_s(failures, random.Random(seed)) <= ceiling <= max_s
    assert backoff.ceiling_s(1) == min(base_s, max_s)
    assert backoff.ceiling_s(failures + 1) == min(2 * ceiling, max_s)


def test_there_is_no_wait_without_a_failure() -> None:
    assert Backoff(1.0, 8.0).delay_s(0, random.Random(1)) == 0.0


def test_the_jitter_fills_the_interval_evenly_and_is_drawn_from_the_given_generator() -> None:
    backoff, rng = Backoff(1.0, 8.0), random.Random(7)
    delays = sorted(backoff.delay_s(3, rng) for _ in range(2000))
    assert [delays[place] for place in (200, 1000, 1800)] == pytest.approx([0.4, 2.0, 3.6], abs=0.15)
    assert backoff.delay_s(3, random.Random(7)) == backoff.delay_s(3, random.Random(7))


def test_libraries_with_retries_of_their_own_stay_within_the_backoff() -> None:
    backoff = Backoff(0.5, 2.0)
    assert max(RedisBackoff(backoff).compute(50) for _ in range(500)) <= 2.0
    assert kombu_waits(backoff) == {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}
