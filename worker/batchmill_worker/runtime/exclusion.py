"""Lets a suspect run alone: an attempt whose shard was lost before, so that a second death has one possible cause.

Without it, a row that kills the process beside another attempt would have that attempt's shard blamed too, each time.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Condition
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Exclusion:
    """Many may enter together, or one alone. One that waits to be alone goes before those that come later."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._together = 0
        self._waiting_alone = 0
        self._is_alone = False

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """Wait for a place, and keep it while the context lasts."""
        with self._changed:
            if alone:
                self._waiting_alone += 1
                self._changed.wait_for(lambda: not self._is_alone and not self._together)
                self._waiting_alone -= 1
                self._is_alone = True
            else:
                self._changed.wait_for(lambda: not self._is_alone and not self._waiting_alone)
                self._together += 1
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._is_alone = False
                else:
                    self._together -= 1
                self._changed.notify_all()
