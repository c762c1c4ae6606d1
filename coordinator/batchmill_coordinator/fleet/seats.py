"""A worker as the dispatcher sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seats:
    """A worker as the dispatcher sees it."""

    name: str
    places: int  # shards it takes at once
    models: frozenset[str] = frozenset()  # loaded
    loading: frozenset[str] = frozenset()  # on its way; it consumes from their queues already
    has_room: bool = True  # for another model
    load_s: float = 0.0  # how long loading the slowest of them took
