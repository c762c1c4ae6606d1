"""What is wrong with the service itself and does not end by itself at once: for its log, `/readyz` and metrics."""

from __future__ import annotations

import logging
import threading
from enum import StrEnum

log = logging.getLogger(__name__)


class Notice(StrEnum):
    """What there may be to report."""

    CLOCK = "clock"  # the clocks of Redis and the coordinator cannot be trusted
    LEDGER = "ledger"  # the ledger was lost or rolled back, or belongs to another blob store


class Notices:
    """What is wrong at present, one text for each kind. Thread-safe."""

    def __init__(self) -> None:
        self._texts: dict[Notice, str] = {}
        self._lock = threading.Lock()

    def report(self, notice: Notice, text: str) -> None:
        """Report it; logged when the kind is new."""
        with self._lock:
            is_new = notice not in self._texts
            self._texts[notice] = text
        if is_new:
            log.error("%s", text)

    def clear(self, notice: Notice) -> None:
        """It is over."""
        with self._lock:
            text = self._texts.pop(notice, None)
        if text is not None:
            log.info("this is over: %s", text)

    def texts(self) -> dict[Notice, str]:
        """What there is to report."""
        with self._lock:
            return dict(self._texts)
