"""The state of windows as bytes, and the cuts of what they read."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import repeat
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.errors import DamagedData, InvalidRows
from batchmill.jobs.shard import Shard, ShardId
from batchmill.jobs.stateful.step import StateStep
from batchmill.jobs.stateful.windows import ticking_ms
from batchmill.ledger.formats.encodings import StageCursor
from batchmill.ledger.formats.record import StageRecord
from batchmill.sources.base import End, InputSplit, NextSplit, NotYet, Splitter
from batchmill_coordinator.results.freed_results import KEPT_S
from batchmill_coordinator.results.splitting.steps import StateSplitter, StepCursor
from batchmill_worker.windows.aggregates import Collect
from batchmill_worker.windows.encoding import MAX_KEPT_TEXT, decode_state, encode_state
from batchmill_worker.windows.rules import WindowKind, WindowRule
from batchmill_worker.windows.state import WindowState
from batchmill_worker.windows.stepping import Arrival, Windows
from support.windowing import COLLECTED, drawn_events, drawn_rule, run_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = WindowRule(WindowKind.COUNT, 100)
SCHEMA = pa.schema({"v": pa.struct({"__batchmill_type__": pa.string(), "value": pa.string()})})


def test_a_state_that_was_stored_continues_as_if_it_had_not_been() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        rule, events = replace(drawn_rule(rng), idle_ms=1000), drawn_events(rng, "xy")
        expected, _ = run_stream(rule, events)
        state, fired = WindowState(), []
        for event in events:
            fired += run_stream(rule, [event], state, flush=False)[0]
            state, schema = decode_state(encode_state(state, SCHEMA), rule)
            assert schema == SCHEMA
        assert fired + Windows(rule, COLLECTED, state).flush() == expected, seed


def test_a_window_that_has_not_changed_is_stored_as_it_was() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        rule, state = replace(drawn_rule(rng), idle_ms=1000), WindowState()
        for event in drawn_events(rng, "xy"):
            run_stream(rule, [event], state, flush=False)
            kept = encode_state(state, SCHEMA)
            for of_key in state.windows.values():
                for one in of_key:
                    one.text = ""
            assert encode_state(state, SCHEMA) == kept, seed


def test_long_windows_are_not_kept_as_text_too() -> None:
    windows = Windows(COUNT, [Collect("v")], WindowState())
    for value in ("short", "x" * MAX_KEPT_TEXT):
        windows.add(Arrival((value,), 1, {"v": value}), 0)
    encode_state(windows.state, SCHEMA)
    short, long = (one for of_key in windows.state.windows.values() for one in of_key)
    assert '"short"' in short.text
    assert not long.text


def test_values_that_json_lacks_are_kept() -> None:
    values = [
        b"\x00\xff",
        datetime(2030, 1, 2, 3, 4, 5, 6, UTC),
        datetime(2030, 1, 2),  # noqa: DTZ001  # columns may have no zone
        date(2030, 1, 2),
        time(1, 2, 3),
        timedelta(days=-1, microseconds=5),
        Decimal("1.50"),
        {"a": [1, None]},
        {"__batchmill_type__": "bytes", "value": "eA=="},
        [{"__batchmill_type__": "other", "value": [b"x", {"__batchmill_type__": "bytes", "value": 5}]}],
    ]
    windows = Windows(COUNT, [Collect("v")], WindowState())
    for value in values:
        windows.add(Arrival((b"key", date(2030, 1, 1)), 1, {"v": value}), 0)
    state, _ = decode_state(encode_state(windows.state, SCHEMA), COUNT)
    (fired,) = Windows(COUNT, [Collect("v")], state).flush()
    assert fired.key == (b"key", date(2030, 1, 1))
    assert fired.results == (values,)
    assert [type(one) for one in fired.results[0]] == [type(one) for one in values]


def test_a_value_that_cannot_be_kept_and_a_state_that_is_damaged_are_named() -> None:
    windows = Windows(COUNT, [Collect("v")], WindowState())
    windows.add(Arrival((1,), 1, {"v": object()}), 0)
    with pytest.raises(InvalidRows, match="cannot keep a value of the type object"):
        encode_state(windows.state, SCHEMA)
    for data in (b"", b"x", encode_state(WindowState(), SCHEMA)[:-9]):
        with pytest.raises(DamagedData):
            decode_state(data, COUNT)


class Rows(Splitter):
    """Gives what it is told."""

    def __init__(self, splits: Iterator[NextSplit]) -> None:
        self._splits = splits

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:  # noqa: ARG002  # it is told what to give
        """See `Splitter.next_split`."""
        return next(self._splits)


class Planning:
    """Plans the shards of a stage that keeps state, as the planner does: each round with a splitter of its own."""

    def __init__(self, ticks_for_ms: int | None = None, groups: int = 1) -> None:
        self.groups = groups
        self.own = StageRecord(1, None)  # type: ignore[arg-type]  # its spec is not read
        self.cursor, self.now_ms, self._ticks_for_ms = "", 1000, ticks_for_ms

    def next(self, found: NextSplit, *, live: int = 0) -> StateStep | NextSplit:
        made = self.round(found, live=live)
        return made[0] if isinstance(made, list) else made

    def round(self, found: NextSplit, *, live: int = 0) -> list[StateStep] | NextSplit:
        planned = self.own.shards_planned
        own = replace(self.own, shards_live=live)
        last = [f"{number}-a1" for number in range(planned - self.groups, planned)]
        splitter = StateSplitter(
            Rows(repeat(found)), own, self.cursor, lambda: last, lambda: self.now_ms, self._ticks_for_ms, self.groups
        )
        made = splitter.next_split(100, 100)
        assert not isinstance(splitter.next_split(100, 100), InputSplit)  # one at a time
        if not isinstance(made, InputSplit):
            return made
        self.cursor = made.cursor
        shards = [made.slices, *made.others]
        self.own = replace(self.own, shards_planned=planned + len(shards))
        assert all(made.rows == sum(one.rows for one in slices) for slices in shards)
        return [StateStep.of(Shard("job", 1, ShardId((planned,)), 0, made.rows, slices)) for slices in shards]


def rows(shard: int) -> InputSplit:
    return InputSplit((), 0, 0, StageCursor(shard, 0).write())


def test_each_shard_begins_with_the_state_of_the_one_before_it() -> None:
    planning = Planning()
    assert planning.next(rows(1)) == StateStep("", 0, 1000, is_last=False)
    assert planning.next(rows(2), live=1) == NotYet()
    planning.now_ms = 1001
    assert planning.next(rows(2)) == StateStep("0-a1", 0, 1001, is_last=False, before_ms=1000)
    assert planning.next(NotYet("5 0")) == NotYet(
        StepCursor.parse(planning.cursor)._replace(results=StageCursor(5)).write()
    )
    assert planning.next(rows(3)) == StateStep("1-a1", 0, 1001, is_last=False, before_ms=1001)
    assert planning.next(End()) == StateStep("2-a1", 0, 1001, is_last=True, before_ms=1001)
    assert planning.next(End()) == End()
    assert Planning().next(End()) == End()


def test_a_round_has_a_shard_for_each_group_which_begins_with_the_state_of_its_own() -> None:
    planning = Planning(groups=3)
    assert planning.round(rows(1)) == [StateStep("", 0, 1000, False, 0, group, 3) for group in range(3)]
    assert planning.round(rows(2), live=1) == NotYet()
    assert planning.round(rows(2)) == [StateStep(f"{n}-a1", 0, 1000, False, 1000, n, 3) for n in range(3)]
    assert planning.round(End()) == [StateStep(f"{3 + n}-a1", 0, 1000, True, 1000, n, 3) for n in range(3)]
    assert planning.round(End()) == End()


def test_a_round_waits_until_all_shards_of_the_one_before_are_settled() -> None:
    splitter = StateSplitter(
        Rows(repeat(rows(1))),
        replace(Planning().own, shards_planned=3),
        StepCursor().write(),
        list,
        lambda: 1000,
        None,
        3,
    )
    assert splitter.next_split(100, 100) == NotYet()


@pytest.mark.parametrize("groups", [1, 3])
def test_states_go_once_no_ledger_that_is_rolled_back_can_need_them(groups: int) -> None:
    planning, obsolete, planned_at = Planning(groups=groups), dict[int, int](), list[int]()
    planning.now_ms = 10**12
    for shard in range(200):
        planned_at.append(planning.now_ms)
        step, *others = planning.round(rows(shard))  # type: ignore[misc]  # there always is one
        assert isinstance(step, StateStep)
        assert not any(one.obsolete for one in others), "one of them deletes the states of all"
        if step.obsolete:
            obsolete[shard], rest = divmod(step.obsolete, groups)
            assert rest == 0
            assert planned_at[obsolete[shard] + 1] <= planning.now_ms - KEPT_S * 1000, "it begins with the state before"
        planning.now_ms += 1000
    assert list(obsolete) == [60, 90, 120, 150, 180]
    assert list(obsolete.values()) == [29, 59, 89, 119, 149]
    planning.now_ms = 500  # the clock is put back
    step = planning.next(rows(200))
    assert isinstance(step, StateStep)
    assert step.obsolete == 0


def test_time_makes_shards_without_rows_until_nothing_can_be_left_to_do() -> None:
    planning = Planning(ticks_for_ms=2500)
    assert planning.next(NotYet()) == NotYet()
    planning.next(rows(1))
    ticks = []
    for planning.now_ms in range(1000, 10_000, 500):
        found = planning.next(NotYet())
        if isinstance(found, StateStep):
            ticks.append(found.now_ms)
    assert ticks == [2000, 3000, 4000]


def test_time_passes_for_as_long_as_windows_can_be_open() -> None:
    assert ticking_ms({"tumbling": "1m", "wait": "10s"}) is None
    assert ticking_ms({"tumbling": "1m", "wait": "10s", "late": 5, "idle": "30s"}) == 105_000
    assert ticking_ms({"sliding": ["5m", "1m"], "idle": 1.5}) == 301_500
