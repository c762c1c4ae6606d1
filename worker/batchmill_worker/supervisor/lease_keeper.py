"""Keeps the leases of slots whose processes live, in a thread of the supervisor's.

A process renews its leases itself, and reports with that what its attempts have used. Where native code holds the
interpreter's lock for longer than a lease lasts, it cannot: the supervisor, which sees that the process is there, then
keeps the leases that the process has shown on its board, and its place in the list of workers. How long it does so is
up to the watch over hooks, which ends the process. A process that is stopped or gone gets nothing, and its leases end.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import psutil

from batchmill.jobs.shard import ShardRef
from batchmill_worker.runtime.slot_board import read_board

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from batchmill.ledger import Ledger
    from batchmill.processes.children import ChildState

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Keeps the leases of live processes.

    states: of the processes, by the names of their slots. board_of: the file of a slot's board.
    """

    def __init__(
        self,
        ledger: Ledger,
        states: Callable[[], Iterable[ChildState]],
        board_of: Callable[[str], Path],
        lease_ttl_s: float,
    ) -> None:
        self._ledger = ledger
        self._states = states
        self._board_of = board_of
        self._ttl_s = lease_ttl_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease keeper", daemon=True)

    def start(self) -> None:
        """Begin to keep leases."""
        self._thread.start()

    def stop(self) -> None:
        """Keep no lease any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def keep(self) -> None:
        """Prolong the leases of every live process once. Raises `ServiceUnavailable`."""
        for state in self._states():
            if state.pid is None or not _runs(state.pid):
                continue
            board = read_board(self._board_of(state.name), state.pid)
            if board is not None:
                refs = [ShardRef.from_key(claim) for claim in board.claims]
                self._ledger.shards.keep_leases(state.name, refs, int(self._ttl_s * 1000))

    def _run(self) -> None:
        while not self._stopping.wait(self._ttl_s / 3):
            try:
                self.keep()
            except Exception as error:  # noqa: BLE001  # whatever it is, the leases are to be kept next time
                log.warning("leases of live processes could not be kept: %s", error)


def _runs(pid: int) -> bool:
    """Whether a process is there and not stopped."""
    try:
        return psutil.Process(pid).status() not in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_TRACING_STOP,
            psutil.STATUS_ZOMBIE,
        )
    except psutil.Error:
        return False
