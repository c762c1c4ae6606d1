"""A thread that its process cannot work without: it never ends unnoticed."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

EXIT_THREAD_FAILED = 70


class GuardedThread:
    """Runs `target` until it returns. What it raises ends the process, with a message: whatever runs it restarts it."""

    def __init__(self, name: str, target: Callable[[], None], end: Callable[[int], object] = os._exit) -> None:
        self.name = name
        self._target = target
        self._end = end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the target has returned. A thread that was never started has nothing to wait for."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._target()
        except BaseException:  # a thread's SystemExit or MemoryError too
            log.critical(
                "the thread %r failed, and this process cannot work without it: it ends", self.name, exc_info=True
            )
            self._end(EXIT_THREAD_FAILED)
