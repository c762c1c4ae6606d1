"""A worker as the dispatcher sees it: how many shards it takes, and of which models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerCapacity:
    """What one worker can take."""

    name: str
    slots: int  # shards it takes at once
    models: frozenset[str] = frozenset()  # loaded
    loading: frozenset[str] = frozenset()  # on its way; it consumes from their queues already
    has_spare: bool = True  # memory for another model
    load_s: float = 0.0  # how long loading the slowest of them took
    device_type: str = "cpu"  # the device's model
