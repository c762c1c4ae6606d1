"""What windows do with rows: which they take, when they fire, what they make, and how much they keep."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill_worker.windows.aggregates import (
    ENTRY_BYTES,
    Aggregate,
    Collect,
    Count,
    Greatest,
    Least,
    Mean,
    Top,
    Total,
    size_of,
)
from batchmill_worker.windows.rules import WindowKind, WindowRule
from batchmill_worker.windows.state import WindowState
from batchmill_worker.windows.stepping import (
    MAX_PARTITION_NAME,
    WINDOW_BYTES,
    Arrival,
    Limits,
    Refusal,
    Windows,
)
from support.windowing import COLLECTED, Event, drawn_events, drawn_rule, run_stream

TUMBLING = WindowRule(WindowKind.TUMBLING, 100)
SESSION = WindowRule(WindowKind.SESSION, 100)


def at(*times: int, partition: str = "", now_ms: int = 0) -> list[Event]:
    return [Event("a", time, number, partition, now_ms) for number, time in enumerate(times)]


def spans(fired: list[Any]) -> list[tuple[int, int, int, int]]:
    return [(one.start, one.end, one.revision, one.rows) for one in fired]


def test_a_window_fires_when_the_watermark_reaches_its_end() -> None:
    fired, refused = run_stream(replace(TUMBLING, wait_ms=10), at(5, 99, 109, 110), flush=False)
    assert spans(fired) == [(0, 100, 0, 2)]
    assert refused == []


def test_a_row_is_late_only_if_none_of_its_windows_takes_it() -> None:
    sliding = WindowRule(WindowKind.SLIDING, 100, every_ms=50)
    fired, refused = run_stream(sliding, at(60, 120, 110, 40), flush=False)
    assert [event.at for event, _ in refused] == [40]  # 110 is before the watermark, but its windows are open
    assert [why.why for _, why in refused] == [Refusal.LATE]
    assert spans(fired) == [(0, 100, 0, 1)]
    strict = run_stream(replace(sliding, strict=True), at(60, 120, 110, 40), flush=False)[1]
    assert [event.at for event, _ in strict] == [110, 40]


def test_a_late_row_that_is_allowed_makes_a_revision_with_all_rows() -> None:
    fired, refused = run_stream(replace(TUMBLING, late_ms=50), at(10, 120, 20, 149, 30, 150, 40), flush=False)
    assert spans(fired) == [(0, 100, 0, 1), (0, 100, 1, 2), (0, 100, 2, 3)]
    assert fired[-1].results == (3, [0, 2, 4])
    assert len({one.id for one in fired}) == 1
    assert [event.at for event, _ in refused] == [40]


def test_sessions_that_only_touch_are_two() -> None:
    assert spans(run_stream(SESSION, at(0, 100))[0]) == [(0, 100, 0, 1), (100, 200, 0, 1)]
    assert spans(run_stream(replace(SESSION, strict=True), at(0, 100))[0]) == [(0, 200, 0, 2)]


def test_a_session_that_fired_keeps_its_id_when_it_grows() -> None:
    fired, _ = run_stream(replace(SESSION, late_ms=1000), at(500, 700, 450, 590))
    assert spans(fired) == [(500, 600, 0, 1), (450, 600, 1, 2), (450, 690, 2, 3), (700, 800, 0, 1)]
    assert [one.id for one in fired] == [500, 500, 500, 700]


def test_a_session_that_fired_and_becomes_part_of_another_is_withdrawn() -> None:
    fired, _ = run_stream(replace(SESSION, late_ms=1000), at(0, 150, 400, 75))
    assert [(one.id, one.revision, one.merged_into) for one in fired] == [
        (0, 0, None),
        (150, 0, None),
        (150, 1, 0),
        (0, 1, None),
        (400, 0, None),
    ]
    assert fired[3].results == (3, [0, 3, 1])


def test_count_windows_fire_when_they_are_full_and_at_the_end() -> None:
    fired, _ = run_stream(WindowRule(WindowKind.COUNT, 2), at(9, 3, 7))
    assert spans(fired) == [(3, 9, 0, 2), (7, 7, 0, 1)]


def test_the_slowest_partition_holds_the_watermark_until_it_is_idle() -> None:
    rule = replace(TUMBLING, idle_ms=1000)
    events = [Event("a", 10, 0, "x", 0), Event("a", 300, 1, "y", 10), Event("a", 310, 2, "y", 999)]
    state = WindowState()
    assert run_stream(rule, events, state, flush=False)[0] == []
    assert state.watermark == 10
    fired, _ = run_stream(rule, [Event("a", 320, 3, "y", 1000)], state, flush=False)
    assert spans(fired) == [(0, 100, 0, 1)]
    assert state.watermark == 320


def test_with_all_partitions_idle_the_watermark_continues_with_the_clock() -> None:
    state = WindowState()
    rule = replace(TUMBLING, idle_ms=1000, wait_ms=30)
    run_stream(rule, at(50, now_ms=5000), state, flush=False)
    windows = Windows(rule, COLLECTED, state)
    assert windows.tick(6079) == []
    assert spans(windows.tick(6080)) == [(0, 100, 0, 1)]
    assert windows.tick(9000) == []
    assert state.open_windows == 0


def test_aggregates_skip_nulls_and_have_no_result_without_values() -> None:
    aggregates = [Count(""), Count("v"), Total("v"), Mean("v"), Least("v"), Greatest("v"), Top("v", 2), Collect("v")]
    windows = Windows(WindowRule(WindowKind.COUNT, 5), aggregates, WindowState())
    fired: list[Any] = []
    for value in (3, None, None, 5, 4):
        fired += windows.add(Arrival(("a",), 1, {"v": value}), 0)[0]
    assert fired[0].results == (5, 3, 12, 4.0, 3, 5, [5, 4], [3, None, None, 5, 4])
    windows.add(Arrival(("a",), 1, {"v": None}), 0)
    assert windows.flush()[0].results == (1, 0, None, None, None, None, [], [None])


def test_a_value_that_an_aggregate_cannot_take_is_refused() -> None:
    windows = Windows(TUMBLING, [Total("v")], WindowState())
    refused = windows.add(Arrival(("a",), 1, {"v": "5"}), 0)[1]
    assert refused is not None
    assert (refused.why, refused.message) == (Refusal.BAD_VALUE, "column 'v': expected a number, got str")
    assert windows.state.open_windows == 0


def test_state_has_limits_and_rows_beyond_them_are_refused() -> None:
    windows = Windows(TUMBLING, COLLECTED, WindowState(), Limits(windows=2, rows_per_window=2, nbytes=300))
    row = Event("a", 1, 0).arrival()
    found = [
        windows.add(one, 0)[1]
        for one in (
            row,
            row,
            row,
            replace(row, key=("b",)),
            replace(row, key=("c",)),
            replace(row, key=("b",), values={"number": "x" * 30}),
        )
    ]
    assert [one and one.why for one in found] == [
        None,
        None,
        Refusal.WINDOW_FULL,
        None,
        Refusal.TOO_MANY_WINDOWS,
        Refusal.STATE_FULL,
    ]


def test_partitions_beyond_the_limit_are_refused_and_known_ones_are_not() -> None:
    windows = Windows(TUMBLING, COLLECTED, WindowState(), Limits(partitions=2))
    found = [windows.add(Arrival(("a",), 1, {"v": 1}, partition), 0)[1] for partition in ("p", "q", "r", "p")]
    assert [one and one.why for one in found] == [None, None, Refusal.STATE_FULL, None]


def test_what_fires_does_not_depend_on_how_rows_are_divided_into_steps() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        rule, events = replace(drawn_rule(rng), idle_ms=1000), drawn_events(rng, "xy")
        cut = rng.randint(0, len(events))
        state = WindowState()
        first, _ = run_stream(rule, events[:cut], state, flush=False)
        assert first + run_stream(rule, events[cut:], state)[0] == run_stream(rule, events)[0], seed


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_row_is_in_its_windows_or_refused(rng: random.Random) -> None:
    rule, events = drawn_rule(rng), drawn_events(rng, "xy")
    fired, refused = run_stream(rule, events)
    late = {event.number for event, _ in refused}
    last = {(one.key, one.id): one for one in fired}
    withdrawn = [one for one in last.values() if one.merged_into is not None]
    counts = Counter(number for one in last.values() if one.merged_into is None for number in one.results[1])
    assert set(counts) | late == {event.number for event in events}
    assert not set(counts) & late
    if rule.kind is not WindowKind.SLIDING:
        assert set(counts.values()) <= {1}
    for one in withdrawn:
        assert (one.key, one.merged_into) in last
    seen: Counter[Any] = Counter()
    for one in fired:
        assert one.revision == seen[one.key, one.id]  # no window fires twice with one revision
        seen[one.key, one.id] += 1
        assert one.merged_into is not None or one.rows == len(one.results[1]) > 0
    for one in last.values():
        for number in () if one.merged_into is not None else one.results[1]:
            event = events[number]
            assert (event.key,) == one.key
            assert one.start <= event.at <= one.end


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False))
def test_nothing_is_kept_of_windows_that_are_over(rng: random.Random) -> None:
    rule, events = drawn_rule(rng, kinds=("tumbling", "sliding", "session")), drawn_events(rng)
    state = WindowState()
    run_stream(rule, [*events, Event("z", 10**9, 0)], state, flush=False)
    assert set(state.windows) == {("z",)}
    assert len(state.queue) == state.open_windows == len(state.windows["z",])
    one_row, its_partition = WINDOW_BYTES + size_of(("z",)) + ENTRY_BYTES + size_of(0), size_of("")
    assert state.nbytes == one_row * state.open_windows + its_partition


def test_aggregates_of_merged_sessions_are_those_of_all_rows() -> None:
    aggregates = [Count(""), Total("v"), Mean("v"), Least("v"), Greatest("v"), Top("v", 3), Collect("v")]
    for seed in range(50):
        rng = random.Random(seed)
        rows = [Arrival(("a",), rng.randint(0, 2000), {"v": rng.randint(0, 9)}) for _ in range(40)]
        windows = Windows(replace(SESSION, wait_ms=10**6), aggregates, WindowState())
        for row in rows:
            windows.add(row, 0)
        for one in windows.flush():
            inside = [row for row in rows if one.start <= row.at < one.end]
            values = [row.values["v"] for row in sorted(inside, key=lambda row: row.at)]
            assert one.results == (
                len(values),
                sum(values),
                sum(values) / len(values),
                min(values),
                max(values),
                sorted(values, reverse=True)[:3],
                values,
            )


def test_a_session_that_fired_and_grew_fires_again_when_the_watermark_reaches_its_new_end() -> None:
    rule = replace(SESSION, late_ms=1000)
    fired, _ = run_stream(rule, at(0, 150, 90, 170, 320), flush=False)
    assert spans(fired) == [(0, 100, 0, 1), (0, 270, 1, 4)]


@pytest.mark.parametrize("aggregate", [Least("v"), Greatest("v"), Top("v", 2), Collect("v"), Count("")])
def test_keys_and_values_that_are_kept_count_as_state(aggregate: Aggregate) -> None:
    windows = Windows(TUMBLING, [aggregate], WindowState(), Limits(nbytes=1_000_000))
    refused = None
    for number in range(2000):
        kept = "x" * 1000
        row = Arrival((number if aggregate.column else f"{number} {kept}",), 1, {"v": f"{number} {kept}"})
        refused = refused or windows.add(row, 0)[1]
    assert refused is not None
    assert refused.why is Refusal.STATE_FULL
    assert 500_000 < windows.state.nbytes <= 1_000_000


def test_values_that_others_replace_are_no_state() -> None:
    windows = Windows(TUMBLING, [Least("v"), Greatest("v"), Top("v", 2)], WindowState())
    for number in range(1000):
        windows.add(Arrival((), 1, {"v": f"{number:04} {'x' * 100}"}), 0)
    assert windows.state.nbytes < 1000


def test_sessions_that_a_row_joins_in_any_order_are_one() -> None:
    for order in permutations((0, 20, 40, 60)):
        windows = Windows(WindowRule(WindowKind.SESSION, 15, late_ms=10_000), COLLECTED, WindowState())
        for number, at in enumerate((*order, 10, 50, 30)):
            windows.add(Arrival((), at, {"number": number}), 0)
        (of_key,) = windows.state.windows.values()
        assert [(one.start, one.end, one.rows) for one in of_key] == [(0, 75, 7)]


def test_sessions_that_become_one_are_counted_as_one() -> None:
    rng = random.Random(1)
    aggregates = [Least("v"), Top("v", 2), Collect("v"), Total("n"), Count("")]
    windows = Windows(WindowRule(WindowKind.SESSION, 100, wait_ms=10**9), aggregates, WindowState())
    for number in range(500):
        values = {"v": "x" * rng.randint(0, 50), "n": number}
        windows.add(Arrival(("key",), rng.randint(0, 5000), values, "p"), 0)
    expected = size_of("p")
    for one in windows.state.windows["key",]:
        least, top, collected, *_ = one.sums
        expected += WINDOW_BYTES + size_of(one.key) + sum(map(size_of, least)) + sum(map(size_of, top))
        expected += sum(ENTRY_BYTES + size_of(value) for _, _, value in collected)
    assert windows.state.nbytes == expected
    windows.flush()
    assert windows.state.nbytes == size_of("p")


def test_empty_values_and_long_texts_are_counted() -> None:
    assert size_of([[]] * 1000) > 8000
    assert size_of("\N{SNOWMAN}" * 1000) >= 3000
    assert size_of("\ud800") > 0


def test_names_of_partitions_are_bounded() -> None:
    windows = Windows(TUMBLING, COLLECTED, WindowState())
    refused = windows.add(Arrival(("a",), 1, {}, "p" * (MAX_PARTITION_NAME + 1)), 0)[1]
    assert refused is not None
    assert refused.why is Refusal.BAD_VALUE
    assert windows.state.clocks == {}
