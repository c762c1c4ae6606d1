"""The supervisor: one fresh process per device slot, restarted when it dies or leaks, drained with the others."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError, ServiceUnavailable
from batchmill.job_log import LogEvent, LogLevel
from batchmill.ledger import Ledger
from batchmill.processes.children import POLL_S, ChildEnd, ChildKeeper, ChildSpec, describe_exit
from batchmill.processes.tether import python_module
from batchmill_worker.devices.cores import usable_cores
from batchmill_worker.devices.inventory import open_inventory
from batchmill_worker.devices.placement import Placement, place
from batchmill_worker.devices.selection import select, visible_to
from batchmill_worker.metering.slots import VARIABLE
from batchmill_worker.runtime.watchdog import read_note
from batchmill_worker.supervisor.health import Health, Presence
from batchmill_worker.supervisor.metrics_page import WorkerMetrics
from batchmill_worker.supervisor.recycling import MemoryLimits, Recycler
from batchmill_worker.supervisor.slot_files import SlotFiles
from batchmill_worker.supervisor.status_server import Reply, StatusServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from batchmill.settings import WorkerSettings
    from batchmill.shard import ShardRef
    from batchmill_worker.devices.base import Inventory

log = logging.getLogger(__name__)

KILL_AFTER_DRAIN_S = 5.0
LOOK_S = 0.05  # until all slots are there
MEASURE_S = 1.0  # between two looks at the slots' memory
NOBODY = "-"  # to blame; no attempt is called so


class Supervisor:
    """Runs the slots of one machine.

    routes: what its HTTP server answers, by path; more may be added before `run`.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        """Choose the devices. Raises `InvalidSettings` or `MissingExtra`."""
        self._settings = settings
        self._inventory = open_inventory(settings.devices, settings.stand_in_devices)
        self._placements = {slot.identity.name: slot for slot in _placements(settings, self._inventory)}
        self._recycler = Recycler(MemoryLimits(settings.recycle_rss_mb, settings.recycle_device_mb), self._inventory)
        self._measured_at = time.monotonic()
        self._keeper = ChildKeeper(on_end=self._see_off)
        self._ledger = Ledger.open(settings)
        self._presence = Presence(self._ledger, list(self._placements))
        self._health = Health(self._keeper, self._presence)
        self._shared = tempfile.TemporaryDirectory(prefix="batchmill-worker-")
        self._metrics = WorkerMetrics(
            settings.pool, list(self._placements.values()), self._inventory, Path(self._shared.name)
        )
        self._refusal: BatchmillError | None = None
        self._signals: list[int] = []
        self.routes: dict[str, Callable[[], Reply]] = {
            "/healthz": self._health.healthz,
            "/readyz": self._health.readyz,
            "/metrics": self._metrics.page,
        }

    def run(self, ready_file: Path | None) -> None:
        """Run until SIGTERM or SIGINT, which drain; a second one ends everything at once.

        ready_file: written when every slot is in the fleet: {"status_url"}, null without an HTTP server.

        Raises the error of a slot that cannot start with these settings and operators, `InvalidSettings` if there is
        no listening where it is asked for.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        server = StatusServer(self._settings.worker_listen, self.routes) if self._settings.worker_listen else None
        try:
            for placement in self._placements.values():
                self._keeper.start(self._spec(placement))
            if server is not None:
                server.start()
                log.info("health is told at %s", server.url)
            self._watch(ready_file, server.url if server is not None else None)
        finally:
            is_hurried = len(self._signals) > 1
            self._keeper.stop(0 if is_hurried else self._settings.drain_s + KILL_AFTER_DRAIN_S)
            self._close(server)
        if self._refusal is not None:
            raise self._refusal
        if len(self._signals) > 1:
            sys.exit(128 + self._signals[-1])

    def _watch(self, ready_file: Path | None, url: str | None) -> None:
        is_complete = False
        while not self._keeper.wait(POLL_S if is_complete else LOOK_S):
            self._keeper.look()
            self._health.mark()
            self._measure()
            if not is_complete and self._is_complete(at_once=ready_file is not None):
                is_complete = True
                log.info("%d slot(s) of pool %s run on this machine", len(self._placements), self._settings.pool)
                if ready_file is not None:
                    ready_file.write_text(json.dumps({"status_url": url}))

    def _is_complete(self, *, at_once: bool) -> bool:
        try:
            return not (self._presence.read() if at_once else self._presence.missing())
        except ServiceUnavailable as error:
            log.debug("the fleet cannot be read: %s", error)  # the slots, which cannot start, say it too
            return False

    def _measure(self) -> None:
        if time.monotonic() - self._measured_at < MEASURE_S:
            return
        self._measured_at = time.monotonic()
        self._metrics.look(self._keeper.states())
        for state in self._keeper.states():
            placement = self._placements[state.name]
            reason = state.pid and self._recycler.reason(state.name, state.pid, placement.devices)
            if reason:
                log.warning("%s uses %s; it is drained and started afresh", state.name, reason)
                self._keeper.recycle(state.name, self._settings.drain_s + KILL_AFTER_DRAIN_S)

    def _spec(self, placement: Placement) -> ChildSpec:
        name = placement.identity.name
        command = python_module("batchmill_worker.slot", self._shared.name, placement.identity.model_dump_json())
        env = {**placement.env, VARIABLE: str(self._metrics.folder)}
        return ChildSpec(name, command, env, cores=placement.cores)

    def _files(self, name: str) -> SlotFiles:
        return SlotFiles(Path(self._shared.name), name)

    def _see_off(self, end: ChildEnd) -> bool:
        """A slot's process ended: say why, or give back what it held. Tells whether a batch was its end."""
        refusal = self._files(end.name).take_refusal()
        self._metrics.ended(end, refused=refusal is not None)
        if refusal is None:
            return self._take_back(end)
        if end.starts == 1:  # it never ran: nor will it, and the other slots are like it
            self._refusal = refusal
            self._keeper.ask_to_stop()
        else:
            log.error("%s cannot start: %s", end.name, refusal)
        return False

    def _take_back(self, end: ChildEnd) -> bool:
        """End the leases of a dead process now, so that its shards need not wait. Tells whether a batch was its end."""
        blamed = NOBODY if end.was_recycled else read_note(self._files(end.name).note)
        try:
            held = self._ledger.shards.release_leases_of_worker(end.name, blamed)
            self._ledger.fleet.deregister(end.name)
        except ServiceUnavailable as error:
            log.warning("the shards of %s wait for their leases to end: %s", end.name, error)
            return False
        if held:
            log.warning("process %d of %s held %d shard(s); they go to other attempts", end.pid, end.name, len(held))
        for ref in held:
            self._note_death(end, ref, is_blamed=blamed in ("", ref.attempt_key))
        return blamed not in ("", NOBODY)

    def _note_death(self, end: ChildEnd, ref: ShardRef, *, is_blamed: bool) -> None:
        """Tell the job of a shard that its process is gone; blamed: it may have been the shard's doing."""
        what = "the shard was on the device" if is_blamed else "the shard goes back unharmed"
        told = f"worker process {end.pid} {describe_exit(end.code)}; {what}"
        level = LogLevel.ERROR if is_blamed else LogLevel.INFO
        self._ledger.log.note(ref.job_id, level, LogEvent.DIED, told, ref=ref, worker=end.name)

    def _stop(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._signals.append(number)  # first of all: the next signal may come in the middle of this
        if len(self._signals) == 1:
            self._keeper.ask_to_stop()
            log.info("%s: draining", name)
        else:
            self._keeper.kill()
            log.warning("%s again: not waiting for the slots; their shards come back when their leases end", name)

    def _close(self, server: StatusServer | None) -> None:
        if server is not None:
            server.stop()
        self._shared.cleanup()
        self._inventory.close()
        self._ledger.close()


def _placements(settings: WorkerSettings, inventory: Inventory) -> list[Placement]:
    devices = visible_to(inventory.devices(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return place(
        select(settings.devices, devices),
        settings.slots_per_device,
        usable_cores(),
        socket.gethostname(),
        os.getpid(),
        pin=settings.pin_cores,
        set_by_user=os.environ,
    )
