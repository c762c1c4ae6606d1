"""How fast the shards of each model are queued, as the dispatcher has seen it. Pure; times are seconds of one clock."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill.caches import Lru

MAX_MODELS = 1000
WEIGHT = 0.3  # of the latest interval


@dataclass(slots=True)
class _Pace:
    queued_at: float  # the last shard
    since: float  # the same, or the last moment at which no worker had the model, if that was later
    shard_s: float | None = None  # between two shards while more were waiting
    was_deferred: bool = False


class ModelPaces:
    """The models that were dispatched most recently, up to `MAX_MODELS`."""

    def __init__(self) -> None:
        self._paces: Lru[str, _Pace] = Lru(MAX_MODELS)

    def note(self, model: str, queued: int, *, deferred: bool, warm: bool, now_s: float) -> None:
        """Note that a step has queued shards of a model and deferred others, or not. warm: some worker has it."""
        pace = self._paces.get_or_make(model, lambda: _Pace(now_s, now_s))
        if queued:
            if pace.was_deferred:
                latest = (now_s - pace.since) / queued
                pace.shard_s = latest if pace.shard_s is None else (1 - WEIGHT) * pace.shard_s + WEIGHT * latest
            pace.queued_at = pace.since = now_s
        if not warm:
            pace.since = now_s
        pace.was_deferred = deferred and warm

    def drain_s(self, model: str, backlog: int, now_s: float) -> float | None:
        """Return how long the backlog will take at the pace so far; None when nothing was deferred yet."""
        pace = self._paces.get(model)
        if pace is None or not pace.was_deferred:
            return None
        return backlog * max(pace.shard_s or 0.0, now_s - pace.since)

    def waited_s(self, model: str, since_s: float, now_s: float) -> float:
        """Return for how long a model with work since `since_s` has had no shard queued."""
        pace = self._paces.get(model)
        return now_s - max(since_s, pace.queued_at if pace is not None else since_s)
