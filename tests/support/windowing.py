"""Random streams for tests of windows, and runs of them through the step function."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchmill_worker.windows.aggregates import Collect, Count
from batchmill_worker.windows.rules import WindowKind, WindowRule
from batchmill_worker.windows.state import WindowState
from batchmill_worker.windows.stepping import Arrival, Windows

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from batchmill_worker.windows.stepping import Firing, Refused

COLLECTED = (Count(""), Collect("number"))


class Event(NamedTuple):
    """A row of a random stream."""

    key: str
    at: int
    number: int
    partition: str = ""
    now_ms: int = 0

    def arrival(self) -> Arrival:
        """The row, as windows take it."""
        return Arrival((self.key,), self.at, {"number": self.number}, self.partition)


def run_stream(
    rule: WindowRule, events: Iterable[Event], state: WindowState | None = None, *, flush: bool = True
) -> tuple[list[Firing], list[tuple[Event, Refused]]]:
    """Run a stream through windows that collect its rows; return what fired, and what was refused."""
    windows = Windows(rule, COLLECTED, state or WindowState())
    fired: list[Firing] = []
    refused: list[tuple[Event, Refused]] = []
    for event in events:
        firings, why = windows.add(event.arrival(), event.now_ms)
        fired += firings
        if why is not None:
            refused.append((event, why))
    if flush:
        fired += windows.flush()
    return fired, refused


def drawn_rule(rng: random.Random, *, strict: bool = False, kinds: Sequence[str] = tuple(WindowKind)) -> WindowRule:
    """Draw a rule."""
    wait_ms = rng.choice([0, 300, 2000])
    late_ms = 0 if strict else rng.choice([0, 0, 500, 3000])
    match WindowKind(rng.choice(kinds)):
        case WindowKind.TUMBLING as kind:
            return WindowRule(kind, 1000, wait_ms=wait_ms, late_ms=late_ms, strict=strict)
        case WindowKind.SLIDING as kind:
            every_ms = rng.choice([250, 400, 500])
            return WindowRule(kind, 1000, every_ms=every_ms, wait_ms=wait_ms, late_ms=late_ms, strict=strict)
        case WindowKind.SESSION as kind:
            return WindowRule(kind, rng.choice([200, 500]), wait_ms=wait_ms, late_ms=late_ms, strict=strict)
        case WindowKind.COUNT as kind:
            return WindowRule(kind, rng.choice([1, 3, 7]))


def drawn_events(rng: random.Random, partitions: Sequence[str] = ("",)) -> list[Event]:
    """Draw a stream of rows, some of which come late."""
    now, events = 0, []
    for number in range(rng.randint(1, 60)):
        now += rng.choice([0, 10, 50, 200, 700])
        at = max(0, now - rng.choice([0, 0, 0, 50, 400, 1500]))
        events.append(Event(rng.choice("ab"), at, number, rng.choice(partitions), now))
    return events
