"""Random streams through the step function and through Bytewax give the same windows with the same rows."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batchmill_worker.windows.rules import WindowKind, WindowRule
from support.windowing import Event, drawn_events, drawn_rule, run_stream

pytest.importorskip("bytewax", reason="Bytewax has no wheel for this Python")

import bytewax.operators as op
import bytewax.operators.windowing as windowing
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

ZERO, NOW = datetime(2030, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
STREAMS = 400
TIMED = (WindowKind.TUMBLING, WindowKind.SLIDING, WindowKind.SESSION)


def by_bytewax(rule: WindowRule, events: list[Event]) -> tuple[list[Any], list[Any]]:
    """Return the windows that Bytewax makes, as keys with numbers of rows, and the late rows."""
    clock = windowing.EventClock(
        lambda value: ZERO + timedelta(milliseconds=value[0]),
        wait_for_system_duration=timedelta(milliseconds=rule.wait_ms),
        now_getter=lambda: NOW,
    )
    size, every = timedelta(milliseconds=rule.size), timedelta(milliseconds=rule.every_ms)
    windower: Any
    match rule.kind:
        case WindowKind.TUMBLING:
            windower = windowing.TumblingWindower(length=size, align_to=ZERO)
        case WindowKind.SLIDING:
            windower = windowing.SlidingWindower(length=size, offset=every, align_to=ZERO)
        case _:
            windower = windowing.SessionWindower(gap=size)
    down: list[Any] = []
    late: list[Any] = []
    flow = Dataflow("compared")
    stream = op.input("in", flow, TestingSource(events))
    keyed = op.map_value("value", op.key_on("key", stream, lambda event: event.key), lambda one: (one.at, one.number))
    made = windowing.collect_window("windows", keyed, clock, windower)
    op.output("down", made.down, TestingSink(down))
    op.output("late", made.late, TestingSink(late))
    run_main(flow)
    return sorted((key, sorted(number for _, number in values)) for key, (_, values) in down), late


def by_us(rule: WindowRule, events: list[Event]) -> tuple[list[Any], list[Any]]:
    """Return the same of the step function. Bytewax has a watermark for each key, so each key is a stream here."""
    windows: list[Any] = []
    late: list[Any] = []
    for key in sorted({event.key for event in events}):
        fired, refused = run_stream(rule, [event for event in events if event.key == key])
        windows += [(key, sorted(one.results[1])) for one in fired]
        late += refused
    return sorted(windows), late


def test_random_streams_give_what_bytewax_makes() -> None:
    for seed in range(STREAMS):
        rng = random.Random(seed)
        rule, events = drawn_rule(rng, strict=True, kinds=TIMED), drawn_events(rng)
        windows, late = by_us(rule, events)
        expected, expected_late = by_bytewax(rule, events)
        assert windows == expected, (seed, rule)
        if rule.kind is not WindowKind.SLIDING:  # of these, Bytewax names a row once for each of its windows
            assert len(late) == len(expected_late), (seed, rule)


def test_flinks_rule_makes_fewer_rows_late() -> None:
    late = {True: 0, False: 0}
    for seed in range(STREAMS):
        for strict in late:
            rng = random.Random(seed)
            rule, events = drawn_rule(rng, strict=True, kinds=TIMED), drawn_events(rng)
            chosen = WindowRule(rule.kind, rule.size, rule.every_ms, wait_ms=rule.wait_ms, strict=strict)
            late[strict] += len(by_us(chosen, events)[1])
    assert late[False] < late[True] * 0.7
