"""Windows of rows, cut into batches."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill_worker.batching.packing import Packed, Window, fitting, pack


def packed(
    costs: list[float],
    budget: float,
    most_rows: int | None = None,
    *,
    padded: bool,
    max_padding: float = float("inf"),
) -> list[Packed]:
    array = np.array(costs, dtype=float)
    window = Window(len(costs), lambda start, end: array[start:end], padded=padded)
    batches = []
    while (batch := window.take(budget, most_rows, max_padding=max_padding)) is not None:
        batches.append(batch)
    return batches


@given(
    costs=st.lists(st.integers(0, 500), max_size=300),
    budget=st.integers(1, 3000) | st.just(float("inf")),
    most_rows=st.none() | st.integers(1, 50),
    padded=st.booleans(),
)
def test_every_row_is_in_one_batch_and_none_is_over_the_budget_unless_it_is_a_single_row(
    costs: list[int], budget: float, most_rows: int | None, padded: bool
) -> None:
    batches = packed([float(cost) for cost in costs], budget, most_rows, padded=padded)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(len(costs)))
    for batch in batches:
        its = [costs[row] for row in batch.rows]
        assert batch.true_units == sum(its)
        assert batch.units == (max(its) * len(its) if padded else sum(its))
        assert len(its) == 1 or (batch.units <= budget and len(its) <= (most_rows or len(its)))


def test_rows_that_are_not_padded_stay_in_order() -> None:
    rows = np.concatenate([batch.rows for batch in packed([5, 1, 9, 2, 7] * 100, 20, padded=False)])
    assert rows.tolist() == list(range(500))


def test_texts_of_mixed_lengths_are_padded_by_less_than_a_tenth() -> None:
    rng = Random(7)
    costs = [float(min(max(int(rng.lognormvariate(4, 0.8)), 3), 512)) for _ in range(5000)]
    batches = packed(costs, 4096, padded=True)
    units, true_units = sum(batch.units for batch in batches), sum(batch.true_units for batch in batches)
    assert 1 - true_units / units < 0.10
    assert len(batches) < 1.2 * true_units / 4096


def least_cost(costs: list[int], batch_cost: int) -> int:
    """Of padding and batches, over all ways to cut the sorted rows."""
    rows = sorted(costs, reverse=True)
    least = [0]
    for end in range(1, len(rows) + 1):
        cuts = range(end)
        least.append(min(least[cut] + batch_cost + sum(rows[cut] - row for row in rows[cut:end]) for cut in cuts))
    return least[-1]


@given(costs=st.lists(st.integers(0, 60), min_size=1, max_size=25), batch_cost=st.integers(1, 80))
def test_batches_and_their_padding_cost_at_most_twice_what_the_best_cut_does(costs: list[int], batch_cost: int) -> None:
    batches = packed([float(cost) for cost in costs], float("inf"), padded=True, max_padding=batch_cost)
    assert all(batch.units - batch.true_units <= batch_cost for batch in batches)
    cost = sum(batch_cost + batch.units - batch.true_units for batch in batches)
    assert cost <= 2 * least_cost(costs, batch_cost)


def test_a_budget_that_grows_between_batches_is_used_at_once() -> None:
    window = Window(100, lambda start, end: np.ones(end - start), padded=False)
    assert [batch.rows.size for budget in (1, 2, 4, 8) if (batch := window.take(budget))] == [1, 2, 4, 8]


def test_costs_are_asked_once_for_each_row_and_not_far_ahead() -> None:
    asked: list[int] = []

    def costs(start: int, end: int) -> np.ndarray:
        asked.extend(range(start, end))
        return np.full(end - start, 10.0)

    window = Window(10_000, costs, padded=True)
    window.take(160)
    assert len(asked) < 700
    while window.take(160):
        pass
    assert asked == list(range(10_000))


@pytest.mark.parametrize(("padded", "count"), [(True, 2), (False, 4)])
def test_a_batch_is_cut_by_its_padded_or_its_true_units(padded: bool, count: int) -> None:
    assert fitting(np.array([5.0, 3.0, 1.0, 1.0]), 10, padded=padded) == count


def test_whether_rows_follow_each_other_is_known() -> None:
    assert pack(np.array([3, 4, 5]), np.ones(3), padded=False).is_run
    assert not pack(np.array([3, 5, 4]), np.ones(3), padded=False).is_run
    assert not pack(np.array([5, 4, 3]), np.ones(3), padded=False).is_run
