"""The states of stages that this process has in memory: the next shards of these stages had better run here.

A state is held from when a shard began with what was in memory, or with nothing, until one had to read it: then another
process has continued from it, and may hold it. So of two processes that take turns soon only one holds it.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

MAX_STATES = 16
"""A queue is consumed for each."""


def _report_to_nobody(_: Collection[str]) -> None:
    """Nobody follows."""


class HeldStates:
    """The states that are held, by `state_key`, the least recently used dropped first. Thread-safe.

    on_change: called, by any thread, with what is held.
    """

    def __init__(self, on_change: Callable[[Collection[str]], None] = _report_to_nobody) -> None:
        self._on_change = on_change
        self._held: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def note(self, state: str, *, is_held: bool) -> None:
        """Note whether a state is held now that a shard of its stage has run."""
        with self._lock:
            before = set(self._held)
            if is_held:
                self._held[state] = None
                self._held.move_to_end(state)
                if len(self._held) > MAX_STATES:
                    self._held.popitem(last=False)
            else:
                self._held.pop(state, None)
            if self._held.keys() != before:
                self._on_change(tuple(self._held))
