"""What has happened to the generations of an engine, on its way from the threads that compute them."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from batchmill_worker.generation.base import EngineStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill_worker.generation.base import Delta


class DeltaQueue:
    """A queue that any thread fills and one empties, and the sums of tokens since the engine was set up."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Delta] = SimpleQueue()
        self._sums = (0, 0, 0)

    def put(self, delta: Delta) -> None:
        """Add what has happened."""
        self._queue.put(delta)

    def take(self, wait_s: float) -> list[Delta]:
        """Return all that is there, in order; wait for the first one if nothing is."""
        found: list[Delta] = []
        try:
            found.append(self._queue.get(timeout=wait_s))
            while True:
                found.append(self._queue.get_nowait())
        except Empty:
            return found

    def count(self, deltas: Iterable[Delta]) -> None:
        """Add the tokens of the answers among them to the sums."""
        for answer in (delta.answer for delta in deltas if delta.answer is not None):
            prompt, cached, generated = self._sums
            self._sums = (
                prompt + answer.prompt_tokens,
                cached + answer.cached_tokens,
                generated + answer.generated_tokens,
            )

    def stats(self, in_flight: int, capacity: int) -> EngineStats:
        """Return what the engine is at, with the sums."""
        return EngineStats(in_flight, capacity, *self._sums)
