"""The windows of a chaos run are judged by what a simpler program makes of the same rows."""

from __future__ import annotations

import random

import pytest

from batchmill_worker.windows.aggregates import Collect
from batchmill_worker.windows.rules import WindowKind, WindowRule
from batchmill_worker.windows.state import WindowState
from batchmill_worker.windows.stepping import Arrival, Windows
from chaos.stream_users import RULES, event_of
from chaos.window_oracle import Event, Fired, Rule, windows_of


def windows_by_the_operator(rule: Rule, events: list[Event]) -> tuple[list[Fired], set[int]]:
    kind = WindowKind.SESSION if rule.is_session else WindowKind.TUMBLING
    own = WindowRule(kind, rule.size, wait_ms=rule.wait, late_ms=rule.late)
    windows = Windows(own, [Collect("id")], WindowState())
    firings, late = [], set()
    for one in events:
        fired, refused = windows.add(Arrival((one.key,), one.at, {"id": one.id}), 0)
        firings += fired
        late |= {one.id} if refused else set()
    firings += windows.flush()
    found = [
        Fired(one.key[0], one.id, one.revision, one.merged_into, tuple(sorted(one.results[0] if one.results else ())))
        for one in firings
    ]
    return found, late


@pytest.mark.parametrize("is_session", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_it_makes_the_same_of_random_rows(seed: int, is_session: bool) -> None:
    chance = random.Random(seed)
    rule = Rule(chance.randrange(1, 40), chance.randrange(20), chance.randrange(40), is_session=is_session)
    events = [
        Event(number, chance.randrange(3), 1000 + number * 3 - chance.randrange(chance.choice([1, 20, 90])))
        for number in range(200)
    ]
    fired, late = windows_of(rule, events)
    expected, refused = windows_by_the_operator(rule, events)
    assert (sorted(fired, key=str), late) == (sorted(expected, key=str), refused)


@pytest.mark.parametrize("name", RULES)
def test_the_rows_of_a_run_have_windows_that_fire_again_and_rows_that_are_late(name: str) -> None:
    events = [event_of(number) for number in range(2000)]
    fired, late = windows_of(RULES[name], events)
    assert windows_by_the_operator(RULES[name], events)[1] == late
    assert {one.revision for one in fired} >= {0, 1}
    assert 10 < len(late) < 200
    assert any(one.merged_into is not None for one in fired) == RULES[name].is_session
