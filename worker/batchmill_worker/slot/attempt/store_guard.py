"""Guards a worker against running shards over a blob store that is not the ledger's."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

from batchmill.errors import InvalidSettings, StorageError

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.store_mark import StoreMark

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 60.0
"""After this long the next claim compares again: an outage may have changed what is mounted."""


class StoreGuard:
    """Compares the blob store's mark with the ledger, at the start and once a minute before a claim. Thread-safe."""

    def __init__(self, mark: StoreMark, clock: Clock) -> None:
        self._mark = mark
        self._clock = clock
        self._known_until_s = float("-inf")  # monotonic
        self._lock = threading.Lock()

    def require_at_start(self) -> None:
        """Raise `InvalidSettings` for the blob store of another ledger, `StorageError` for one that takes no blobs."""
        self._mark.require_writable()
        self._mark.require()

    def allows_claims(self) -> bool:
        """Return whether a shard may be claimed. Raises `ServiceUnavailable`.

        If not, the process is ended; its supervisor starts it again, and the new one reports why it cannot start.
        """
        with self._lock:
            now_s = self._clock.monotonic()
            try:
                if now_s < self._known_until_s or self._mark.require():
                    self._known_until_s = now_s + CHECK_INTERVAL_S
            except StorageError as error:  # the attempt meets it, too, and waits
                log.warning("the blob store could not be compared with the ledger: %s", error)
            except InvalidSettings as error:
                log.error("no shard is claimed any more: %s", error)
                os.kill(os.getpid(), signal.SIGTERM)
                return False
        return True
