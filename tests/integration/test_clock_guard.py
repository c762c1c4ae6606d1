"""Clocks that cannot be trusted delete nothing: jumps of both kinds, of either clock, on a real Valkey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from batchmill.ledger import Ledger
from batchmill_coordinator.roles.clock_guard import HOLD_S, ClockGuard
from batchmill_coordinator.status.notices import Notice, Notices

if TYPE_CHECKING:
    import redis

NOW_S = 1_000_000_000.0


@dataclass
class Clocks:
    """The coordinator's clocks, and by how much that of Redis is ahead."""

    wall_s: float = NOW_S
    monotonic_s: float = 50.0
    redis_ahead_s: float = 0.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


@dataclass
class Guarded:
    """A guard over a ledger whose server has the time that the clocks give."""

    guard: ClockGuard
    ledger: Ledger
    clocks: Clocks
    notices: Notices

    def is_trusted(self) -> bool:
        self.ledger._store.now_ms = int((self.clocks.wall_s + self.clocks.redis_ahead_s) * 1000)
        return self.guard.is_trusted()


@pytest.fixture
def guarded(redis_client: redis.Redis, prefix: str) -> Guarded:
    clocks, notices = Clocks(), Notices()
    ledger = Ledger(redis_client, prefix, now_ms=int(NOW_S * 1000))
    made = Guarded(ClockGuard(ledger, clocks, notices), ledger, clocks, notices)
    assert made.is_trusted()
    clocks.advance(5)
    return made


@pytest.mark.parametrize("jump_s", [40.0, 3600.0, 10 * 86400.0, -40.0, -86400.0])
def test_a_jump_of_the_clock_of_redis_holds_everything_until_it_is_corrected(guarded: Guarded, jump_s: float) -> None:
    guarded.clocks.redis_ahead_s = jump_s
    assert not guarded.is_trusted()
    assert Notice.CLOCK in guarded.notices.texts()
    guarded.clocks.advance(HOLD_S + 5)
    assert guarded.is_trusted() == (abs(jump_s) < 60)
    guarded.clocks.redis_ahead_s = 0.0
    guarded.clocks.advance(5)
    assert not guarded.is_trusted()
    guarded.clocks.advance(HOLD_S + 5)
    assert guarded.is_trusted()
    assert guarded.notices.texts() == {}


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0])
def test_a_jump_of_both_clocks_of_one_machine_holds_everything_for_a_while(guarded: Guarded, jump_s: float) -> None:
    guarded.clocks.wall_s += jump_s
    assert not guarded.is_trusted()
    guarded.clocks.advance(HOLD_S - 10)
    assert not guarded.is_trusted()
    guarded.clocks.advance(20)
    assert guarded.is_trusted()


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0])
def test_a_jump_of_the_coordinators_clock_holds_everything_while_it_lasts(guarded: Guarded, jump_s: float) -> None:
    guarded.clocks.wall_s += jump_s
    guarded.clocks.redis_ahead_s = -jump_s
    assert not guarded.is_trusted()
    guarded.clocks.wall_s -= jump_s
    guarded.clocks.redis_ahead_s = 0.0
    guarded.clocks.advance(5)
    assert guarded.is_trusted()


@pytest.mark.parametrize(("away_s", "is_trusted"), [(60.0, True), (3 * 86400.0, False), (-600.0, False)])
def test_a_new_coordinator_compares_with_the_last_reading_in_the_ledger(
    guarded: Guarded, away_s: float, is_trusted: bool
) -> None:
    clocks = Clocks(wall_s=guarded.clocks.wall_s + away_s, monotonic_s=1.0)
    after = Guarded(ClockGuard(guarded.ledger, clocks, guarded.notices), guarded.ledger, clocks, guarded.notices)
    assert after.is_trusted() == is_trusted
    clocks.advance(HOLD_S + 5)
    assert after.is_trusted()


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0])
def test_a_new_leader_waits_too_after_a_jump_that_the_one_before_has_seen(guarded: Guarded, jump_s: float) -> None:
    guarded.clocks.wall_s += jump_s
    assert not guarded.is_trusted()
    clocks = Clocks(wall_s=guarded.clocks.wall_s + 5, monotonic_s=1.0)
    after = Guarded(ClockGuard(guarded.ledger, clocks, guarded.notices), guarded.ledger, clocks, guarded.notices)
    assert not after.is_trusted()
    clocks.advance(HOLD_S + 5)
    assert after.is_trusted()
