from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.jobs.shard import FIRST_ROWS
from batchmill.jobs.stage_cost import MAX_FIRST_ROWS, StageCost, first_rows
from batchmill_coordinator.fleet.device_paces import announced_type, as_slowest
from batchmill_coordinator.scheduling.shard_size import MAX_GROWTH, StageProgress, expected_shards, next_rows

TARGET_S = 5.0


def progress(**changes: object) -> StageProgress:
    given = {"rows_timed": 0, "busy_s": 0.0, "shards_done": 0, "rows_left": None, "workers": 4}
    return StageProgress(**{**given, **changes})  # type: ignore[arg-type]  # a dict of the fields


def test_the_first_shards_are_small() -> None:
    assert next_rows(progress(rows_left=10_000_000), TARGET_S) == FIRST_ROWS


def test_first_shards_are_larger_where_rows_are_known_to_cost_next_to_nothing() -> None:
    for cost_s, rows in (
        (1.0, FIRST_ROWS),
        (2**-10, 64),
        (2**-20, MAX_FIRST_ROWS),
        (2**-16, 1310),
        (1e-9, MAX_FIRST_ROWS),
        (0.0, FIRST_ROWS),
    ):
        assert first_rows(StageCost(0.0, cost_s)) == rows
    assert first_rows(None) == FIRST_ROWS
    assert next_rows(progress(first_rows=1310), TARGET_S) == 1310
    measured = progress(rows_timed=64, busy_s=6.4, shards_done=1, first_rows=1310)
    assert next_rows(measured, TARGET_S) == 50  # what was measured in the job itself counts


def test_shards_grow_to_the_target_time_and_no_further() -> None:
    rows_per_s, rows_timed, shards_done, sizes = 100.0, 0, 0, []
    for _ in range(40):
        rows = next_rows(
            progress(rows_timed=rows_timed, busy_s=rows_timed / rows_per_s, shards_done=shards_done), TARGET_S
        )
        sizes.append(rows)
        rows_timed, shards_done = rows_timed + rows, shards_done + 1
    assert sizes[0] == FIRST_ROWS
    assert sizes[-1] == rows_per_s * TARGET_S
    assert sizes == sorted(sizes)


def test_a_shard_is_at_most_so_many_times_larger_than_those_before_it_or_as_large_as_all_of_them() -> None:
    size = next_rows(progress(rows_timed=64, busy_s=1e-6, shards_done=1), TARGET_S)
    assert size == MAX_GROWTH * 64
    size = next_rows(progress(rows_timed=6_400, busy_s=1e-6, shards_done=100), TARGET_S)
    assert size == 6_400


def test_slow_operators_get_shards_smaller_than_the_first() -> None:
    assert next_rows(progress(rows_timed=64, busy_s=640.0, shards_done=1), TARGET_S) == 1


def test_the_tail_is_shared_out_between_the_workers() -> None:
    size = next_rows(progress(rows_timed=100_000, busy_s=100.0, shards_done=20, rows_left=8_000, workers=4), TARGET_S)
    assert size == 1_000


@given(
    rows_timed=st.integers(0, 10**9),
    busy_s=st.floats(0, 1e6),
    shards_done=st.integers(0, 10**6),
    rows_left=st.none() | st.integers(0, 10**9),
    workers=st.integers(0, 1000),
)
def test_a_shard_always_has_rows(
    rows_timed: int, busy_s: float, shards_done: int, rows_left: int | None, workers: int
) -> None:
    assert next_rows(StageProgress(rows_timed, busy_s, shards_done, rows_left, workers), TARGET_S) >= 1


def idle_share(row_s: list[float], workers: float, rows: int = 100_000) -> float:
    """The share of their time that workers wait for the last of them, each taking the next shard when it is done.

    row_s: seconds a row of each. workers: how many the planner takes them for.
    """
    free, busy_s, timed, shards = [(0.0, number) for number in range(len(row_s))], 0.0, 0, 0
    left = rows
    while left:
        now_s, number = heapq.heappop(free)
        size = min(next_rows(StageProgress(timed, busy_s, shards, left, workers), TARGET_S), left)
        took_s = size * row_s[number]
        left, timed, shards, busy_s = left - size, timed + size, shards + 1, busy_s + took_s
        heapq.heappush(free, (now_s + took_s, number))
    ends_s = [end_s for end_s, _ in free]
    return 1 - sum(ends_s) / len(ends_s) / max(ends_s)


@pytest.mark.parametrize("row_s", [[0.001, 0.02], [0.001] * 3 + [0.02], [0.0005, 0.001, 0.01, 0.02]])
def test_devices_wait_less_for_a_slow_one_at_the_end_when_shards_are_sized_for_it(row_s: list[float]) -> None:
    relative = {str(one): one / min(row_s) for one in row_s}
    counted, compared = float(len(row_s)), as_slowest([str(one) for one in row_s], relative)
    assert compared > counted
    assert idle_share(row_s, compared) < 0.5 * idle_share(row_s, counted)


def test_workers_that_are_alike_or_unknown_count_as_they_are() -> None:
    assert as_slowest(["a", "a", "a"], {"a": 1.0}) == pytest.approx(3)
    assert as_slowest(["a", "b"], {}) == 2
    assert as_slowest([], {"a": 1.0}) == 0
    assert as_slowest(["a", "new"], {"a": 1.0, "b": 4.0}) == pytest.approx(5)  # the new one is taken for slow


def test_profiles_are_compared_by_the_type_that_workers_announce() -> None:
    assert [
        announced_type(name) for name in ("cpux16", "cpux8:openvino int8", "NVIDIA L4", "NVIDIA L4:torch fp16")
    ] == [
        "cpu",
        "cpu",
        "NVIDIA L4",
        "NVIDIA L4",
    ]


def test_the_number_of_shards_is_known_before_they_are_planned() -> None:
    """Six of the first ones are planned before any is done; then they grow to five seconds, and end small."""
    assert expected_shards(5000, 0.0125, 1, 5.0) == 21
    assert expected_shards(0, 0.01, 1, 5.0) == 0
    assert expected_shards(100, 30.0, 1, 5.0) == 2  # all of them are planned before one is done
    assert expected_shards(10**9, 0.01, 8, 5.0) == pytest.approx(10**9 / 500, rel=0.01)
