"""The supervisor: one fresh process per device slot, restarted when it dies, drained and stopped with the others."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.children import ChildKeeper, ChildSpec
from batchmill.errors import ServiceUnavailable
from batchmill.ledger import Ledger
from batchmill_worker.loading import load_operators
from batchmill_worker.watchdog import read_note

if TYPE_CHECKING:
    from types import FrameType

    from batchmill.settings import WorkerSettings

log = logging.getLogger(__name__)

KILL_AFTER_DRAIN_S = 5.0
LOOK_S = 0.05
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Supervisor:
    """Runs the slots of one machine."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._keeper = ChildKeeper(on_death=self._mourn)
        self._notes = tempfile.TemporaryDirectory(prefix="batchmill-worker-")
        self._names = slot_names(settings.slots, socket.gethostname(), os.getpid())

    def run(self, ready_file: Path | None) -> None:
        """Run until SIGTERM or SIGINT. Raises `InvalidOperator` before anything is started, if the operators fail."""
        load_operators(self._settings.operators)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            for name in self._names:
                self._keeper.start(self._slot(name))
            if ready_file is not None:
                self._wait_until_present()
                ready_file.write_text("{}")
            log.info("%d slot(s) of pool %s run on this machine", len(self._names), self._settings.pool)
            self._keeper.watch()
        finally:
            self._keeper.stop(self._settings.drain_s + KILL_AFTER_DRAIN_S)
            self._notes.cleanup()

    def _slot(self, name: str) -> ChildSpec:
        threads = str(max(1, (os.cpu_count() or 1) // self._settings.slots))
        env = {variable: os.environ.get(variable, threads) for variable in THREAD_VARIABLES}
        return ChildSpec(name, [sys.executable, "-m", "batchmill_worker.slot", name, "cpu", str(self._note(name))], env)

    def _note(self, name: str) -> Path:
        """Where a slot notes which shard is on its device."""
        return Path(self._notes.name) / name

    def _wait_until_present(self) -> None:
        ledger = Ledger.open(self._settings)
        try:
            while not self._keeper.is_stopping:
                present = {worker.name for worker in ledger.fleet.workers(ledger.now_ms())}
                if present.issuperset(self._names):
                    return
                time.sleep(LOOK_S)
        except ServiceUnavailable as error:
            log.warning("the fleet could not be read: %s", error)
        finally:
            ledger.close()

    def _mourn(self, name: str, pid: int) -> bool:
        """A slot died: its leases end now, so that its shards need not wait for them. Whether a batch was its end."""
        blamed = read_note(self._note(name))
        ledger = Ledger.open(self._settings)
        try:
            held = ledger.shards.abandon(name, blamed)
            ledger.fleet.leave(name)
            log.warning("process %d of %s held %d shard(s); they go to other attempts", pid, name, held)
        except ServiceUnavailable as error:
            log.warning("the shards of %s wait for their leases to end: %s", name, error)
        finally:
            ledger.close()
        return blamed != ""

    def _stop(self, number: int, _: FrameType | None) -> None:
        log.info("%s: draining", signal.Signals(number).name)
        self._keeper.ask_to_stop()


def slot_names(slots: int, host: str, pid: int) -> list[str]:
    """The names of this machine's slots, after their device: `cpu0@host-pid`.

    The supervisor's process id keeps apart two supervisors on one host, which Celery and Flower would take for one.
    """
    return [f"cpu{number}@{host}-{pid}" for number in range(slots)]
