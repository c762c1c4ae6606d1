"""The supervisor: one fresh process per device slot; it restarts what dies or leaks, and drains all on SIGTERM."""

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
from batchmill.ledger import Ledger
from batchmill.processes.children import POLL_INTERVAL_S, ChildEnd, ChildSpec, ProcessSupervisor
from batchmill.processes.parent_death import python_module
from batchmill.settings import PREFIX
from batchmill_worker.devices.cores import usable_cores
from batchmill_worker.devices.inventory import open_inventory
from batchmill_worker.devices.placement import Placement, most_slots, place
from batchmill_worker.devices.selection import select, visible_to
from batchmill_worker.metering.slots import VARIABLE
from batchmill_worker.runtime.slot_board import read_board
from batchmill_worker.supervisor.health import Health, HeartbeatRegistry
from batchmill_worker.supervisor.lease_keeper import LeaseKeeper
from batchmill_worker.supervisor.metrics_page import WorkerMetrics
from batchmill_worker.supervisor.notice_watch import NoticeWatch
from batchmill_worker.supervisor.notices import lifecycle_of, open_notices
from batchmill_worker.supervisor.recycling import MemoryLimits, Recycler
from batchmill_worker.supervisor.slot_end import SlotEnd
from batchmill_worker.supervisor.slot_files import DUMP_SIGNAL, LeavingFile, SlotFiles
from batchmill_worker.supervisor.slot_scaler import SlotScaler, has_memory_for_another, to_start, to_stop
from batchmill_worker.supervisor.slot_watch import SlotWatch, Verdict
from batchmill_worker.supervisor.status_server import Reply, StatusServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from batchmill.settings import WorkerSettings
    from batchmill_worker.devices.base import Inventory

log = logging.getLogger(__name__)

KILL_AFTER_DRAIN_S = 5.0
STARTING_POLL_INTERVAL_S = 0.05  # until all slots are in the fleet
MEASURE_INTERVAL_S = 1.0  # of the memory and CPU time of slots


class Supervisor:
    """Runs the slots of one machine.

    routes: the handlers of its HTTP server, by path; more may be added before `run`.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        """Choose the devices. Raises `InvalidSettings` or `MissingExtra`."""
        self._settings = settings
        self._inventory = open_inventory(settings.devices, settings.stand_in_devices)
        self._placements = {slot.identity.name: slot for slot in _placements(settings, self._inventory)}
        self._present = tuple(self._placements)  # the slots that are to run now
        self._recycler = Recycler(MemoryLimits(settings.recycle_rss_mb, settings.recycle_device_mb), self._inventory)
        self._measured_at = time.monotonic()
        self._processes = ProcessSupervisor(on_end=self._on_slot_exit)
        self._ledger = Ledger.open(settings)
        self._registry = HeartbeatRegistry(self._ledger, lambda: self._present)
        self._health = Health(self._processes, self._registry)
        self._shared = tempfile.TemporaryDirectory(prefix="batchmill-worker-")
        self._metrics = WorkerMetrics(
            settings.pool, list(self._placements.values()), self._inventory, Path(self._shared.name)
        )
        self._keeper = LeaseKeeper(
            self._ledger, self._processes.states, lambda name: self._files(name).board, settings.lease_ttl_s
        )
        self._slot_end = SlotEnd(self._ledger)
        self._scaler = self._make_scaler()
        self._lifecycle: str = settings.lifecycle
        self._notices = self._make_notice_watch()
        self._is_complete = False
        self._watch_over_slots = SlotWatch(settings.batch_timeout_s)
        self._condemned: dict[int, Verdict] = {}  # by process
        self._refusal: BatchmillError | None = None
        self._signals: list[int] = []
        self.routes: dict[str, Callable[[], Reply]] = {
            "/healthz": self._health.healthz,
            "/readyz": self._health.readyz,
            "/metrics": self._metrics.page,
        }

    def run(self, ready_file: Path | None) -> None:
        """Run until SIGTERM or SIGINT, which drain; a second signal ends everything at once.

        ready_file: written when every slot is in the fleet: {"status_url"}, null without an HTTP server.

        Raises the error of a slot that cannot start with these settings and operators, and `InvalidSettings` if the
        server cannot listen on its address.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        server = StatusServer(self._settings.worker_listen, self.routes) if self._settings.worker_listen else None
        try:
            for name in self._present:
                self._processes.start(self._spec(self._placements[name]))
            self._keeper.start()
            if self._scaler is not None:
                self._scaler.start()
            if self._notices is not None:
                self._notices.start()
            if server is not None:
                server.start()
                log.info("health and metrics are served at %s", server.url)
            self._watch(ready_file, server.url if server is not None else None)
        finally:
            is_hurried = len(self._signals) > 1
            self._processes.stop(0 if is_hurried else self._settings.drain_s + KILL_AFTER_DRAIN_S)
            self._close(server)
        if self._refusal is not None:
            raise self._refusal
        if len(self._signals) > 1:
            sys.exit(128 + self._signals[-1])

    def _watch(self, ready_file: Path | None, url: str | None) -> None:
        while not self._processes.wait(POLL_INTERVAL_S if self._is_complete else STARTING_POLL_INTERVAL_S):
            self._poll()
            if not self._is_complete and self._are_all_there(at_once=ready_file is not None):
                self._is_complete = True
                log.info("%d slot(s) of pool %s run on this machine", len(self._present), self._settings.pool)
                if ready_file is not None:
                    ready_file.write_text(json.dumps({"status_url": url}))

    def _poll(self) -> None:
        """Look after the slots once. A fault in that must not end them."""
        try:
            self._processes.poll()
            self._health.mark_polled()
            self._watch_slots()
            self._measure()
            self._scale()
            self._heed_notice()
        except Exception:  # whatever it is, the slots work on, and the next poll starts anew
            log.exception("the slots could not be looked after; this is tried again")

    def _make_scaler(self) -> SlotScaler | None:
        """Return what gives the number of slots, and begin with one on each device; None for a fixed number."""
        if self._settings.slots_per_device:
            return None
        first = {slot.devices: name for name, slot in reversed(self._placements.items())}
        self._present = tuple(name for name in self._placements if name in first.values())
        ending = self._present[0].partition("@")[2]
        limit = len(self._placements)
        return SlotScaler(self._ledger, self._settings.pool, f"@{ending}", len(self._present), limit)

    def _make_notice_watch(self) -> NoticeWatch | None:
        """Return what looks out for the end of the machine; None where it is not asked for."""
        source = open_notices(self._settings.notices, self._settings.notices_url)
        if source is None:
            return None
        if not self._lifecycle:
            self._lifecycle = lifecycle_of(source)
        return NoticeWatch(source, self._settings.drain_s + KILL_AFTER_DRAIN_S, self._on_notice)

    def _on_notice(self, ends_at: float) -> None:
        log.warning("this machine ends in %.0f s, says its cloud; it works on as long as it can", ends_at - time.time())
        try:
            LeavingFile(Path(self._shared.name)).write(ends_at)
        except OSError as error:  # it drains all the same
            log.warning("the end of this machine is not reported to the service: %s", error)
        self._metrics.preempted(self._present)

    @property
    def _is_leaving(self) -> bool:
        return self._notices is not None and self._notices.ends_at is not None

    def _heed_notice(self) -> None:
        """Drain, if the machine ends soon."""
        if self._notices is not None and self._notices.should_drain(time.time()):
            log.warning("draining: the machine is about to end")
            self._processes.ask_to_stop()

    def _scale(self) -> None:
        """Start or end slots, if they follow what the pool needs. One is started at a time: it is measured first."""
        if self._scaler is None or not self._is_complete or self._is_leaving:
            return
        wanted, names, grace_s = (
            self._scaler.wanted,
            list(self._placements),
            self._settings.drain_s + KILL_AFTER_DRAIN_S,
        )
        states = {state.name: state.pid for state in self._processes.states()}
        for name in to_stop(names, self._present, wanted):
            log.info("%s is drained: the pool needs %d slot(s) of this machine", name, wanted)
            self._processes.retire(name, grace_s)
            self._present = tuple(one for one in self._present if one != name)
        free = [name for name in to_start(names, self._present, wanted) if name not in states]
        if free and has_memory_for_another(pid for pid in states.values() if pid is not None):
            log.info("%s is started: the pool needs %d slot(s) of this machine", free[0], wanted)
            self._processes.start(self._spec(self._placements[free[0]]))
            self._present = (*self._present, free[0])

    def _are_all_there(self, *, at_once: bool) -> bool:
        try:
            return not (self._registry.read() if at_once else self._registry.missing())
        except ServiceUnavailable as error:
            log.debug("the fleet cannot be read: %s", error)  # the slots, which cannot start, log it too
            return False

    def _measure(self) -> None:
        if time.monotonic() - self._measured_at < MEASURE_INTERVAL_S:
            return
        self._measured_at = time.monotonic()
        self._metrics.refresh(self._processes.states())
        for state in self._processes.states():
            placement = self._placements[state.name]
            reason = state.pid and self._recycler.reason(state.name, state.pid, placement.devices)
            if reason:
                log.warning("%s uses %s; it is drained and restarted", state.name, reason)
                self._processes.recycle(state.name, self._settings.drain_s + KILL_AFTER_DRAIN_S)

    def _spec(self, placement: Placement) -> ChildSpec:
        name = placement.identity.name
        command = python_module("batchmill_worker.slot", self._shared.name, placement.identity.model_dump_json())
        sharers = sum(one.devices == placement.devices for one in self._placements.values())
        # of memory and price a slot has its share
        known = {f"{PREFIX}SLOTS_PER_DEVICE": str(sharers), f"{PREFIX}LIFECYCLE": self._lifecycle}
        env = {**placement.env, VARIABLE: str(self._metrics.folder), **known}
        return ChildSpec(name, command, env, cores=placement.cores)

    def _files(self, name: str) -> SlotFiles:
        return SlotFiles(Path(self._shared.name), name)

    def _on_slot_exit(self, end: ChildEnd) -> bool:
        """Handle the end of a slot's process: its refusal, or its leases. Return whether its work killed it."""
        refusal = self._files(end.name).take_refusal()
        self._metrics.ended(end, refused=refusal is not None)
        if refusal is None:
            return self._settle(end)
        if end.starts == 1 and not self._is_complete:  # it never ran and never will, and neither will the other slots
            self._refusal = refusal
            self._processes.ask_to_stop()
        else:
            log.error("%s cannot start: %s", end.name, refusal)
        return False

    def _watch_slots(self) -> None:
        """Replace the processes in which a hook hangs or a thread has ended, after they have logged their stacks."""
        for state in self._processes.states():
            if state.pid is None:
                continue
            if state.pid in self._condemned:
                self._processes.kill_one(state.name)
                continue
            board = read_board(self._files(state.name).board, state.pid)
            verdict = board and self._watch_over_slots.judge(board, time.monotonic())
            if not verdict:
                continue
            log.error("%s (process %d) is replaced: %s", state.name, state.pid, verdict.reason)
            if verdict.is_dead:
                self._condemned[state.pid] = verdict
                os.kill(state.pid, DUMP_SIGNAL)
            else:
                self._processes.recycle(state.name, self._settings.drain_s + KILL_AFTER_DRAIN_S)

    def _settle(self, end: ChildEnd) -> bool:
        """Settle what a dead process held. Return whether its work killed it."""
        verdict = self._condemned.pop(end.pid, None)
        try:
            return self._slot_end.settle(end, read_board(self._files(end.name).board, end.pid), verdict)
        except ServiceUnavailable as error:
            log.warning("the shards of %s wait until their leases expire: %s", end.name, error)
            return False

    def _stop(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._signals.append(number)  # first: the next signal may arrive in the middle of this
        if len(self._signals) == 1:
            self._processes.ask_to_stop()
            log.info("%s: draining", name)
        else:
            self._processes.kill()
            log.warning("%s again: the slots are killed; their shards are requeued when their leases expire", name)

    def _close(self, server: StatusServer | None) -> None:
        if server is not None:
            server.stop()
        if self._scaler is not None:
            self._scaler.stop()
        if self._notices is not None:
            self._notices.stop()
        self._keeper.stop()
        self._shared.cleanup()
        self._inventory.close()
        self._ledger.close()


def _placements(settings: WorkerSettings, inventory: Inventory) -> list[Placement]:
    devices = visible_to(inventory.devices(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    groups, cores = select(settings.devices, devices), usable_cores()
    return place(
        groups,
        settings.slots_per_device or most_slots(groups, cores),
        cores,
        socket.gethostname(),
        os.getpid(),
        pin=settings.pin_cores,
        set_by_user=os.environ,
    )
