"""Processes that are killed, frozen, or told to end."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil

from chaos.faults import LEADER, WORKER, FaultSet, Struck
from support.cluster import LEADER_LEASE_S, LEASE_S, resume
from support.metadata_service import metadata_service

if TYPE_CHECKING:
    from support.cluster import Running


class WorkerFaults(FaultSet):
    """Those of slots and supervisors."""

    def _do_kill_slot(self) -> Struck | None:
        slot = self._slot()
        if slot is None:
            return None
        slot.kill()
        return Struck("kill_slot", WORKER, str(slot.pid), time.time())

    def _do_freeze_slot(self) -> Struck | None:
        slot = self._slot()
        if slot is None:
            return None
        slot.suspend()
        fault = Struck("freeze_slot", WORKER, str(slot.pid), time.time())
        return self.repairs.after(LEASE_S * 1.5 + 1, fault, lambda: resume(slot))

    def _do_kill_supervisor(self) -> Struck:
        name, running = self._supervisor()
        slots = len(running.children())
        running.kill()
        del self.cluster.supervisors[name]
        fault = Struck("kill_supervisor", WORKER, name, time.time())
        return self.repairs.after(1.0, fault, lambda: self._new_supervisor(slots))

    def _do_drain_supervisor(self) -> Struck:
        name, running = self._supervisor()
        slots = len(running.children())
        running.process.terminate()
        self._new_supervisor(slots)
        fault = Struck("drain_supervisor", WORKER, name, time.time())
        return self.repairs.after(12.0, fault, lambda: self._leave(name))

    def _do_spot_notice(self) -> Struck:
        """A spot machine joins, is told its end, and is gone then, whether it has drained or not."""
        life_s, stack = self.chance.uniform(8.0, 16.0), ExitStack()
        every_address = "" if self.cluster.networks else "127.0.0.1"
        cloud = stack.enter_context(metadata_service(every_address))
        running = self.cluster.start_supervisor(1, wait=False, metadata_port=cloud.port, DRAIN_S=1)
        stack.callback(self._take_back, running)
        fault = Struck("spot_notice", WORKER, running.name, time.time())
        cloud.announce("aws", fault.at + life_s)
        return self.repairs.after(life_s, fault, stack.close)

    def _take_back(self, running: Running) -> None:
        if self.cluster.supervisors.pop(running.name, None) is not None:
            running.kill()

    def _slot(self) -> psutil.Process | None:
        slots = sorted(self.cluster.slots(), key=lambda process: process.pid)
        return self.chance.choice(slots) if slots else None

    def _supervisor(self) -> tuple[str, Running]:
        return self.chance.choice(sorted(self.cluster.supervisors.items()))

    def _new_supervisor(self, slots: int) -> None:
        self.cluster.start_supervisor(max(slots, 1), wait=False)

    def _leave(self, name: str) -> None:
        """See that a supervisor that was told to drain has ended."""
        running = self.cluster.supervisors.get(name)
        if running is None:
            return
        try:
            running.process.wait(20)
        except subprocess.TimeoutExpired:
            self.repairs.complaints.append(f"{name} was told to drain and did not end")
            running.kill()
        del self.cluster.supervisors[name]


class LeaderFaults(FaultSet):
    """Those of the coordinator that leads."""

    def _do_kill_leader(self) -> Struck | None:
        leader = self._leader()
        if leader is None:
            return None
        leader.kill()
        fault = Struck("kill_leader", LEADER, leader.name, time.time())
        return self.repairs.after(
            LEADER_LEASE_S + 2, fault, lambda: self.cluster.start_coordinator(leader.name, wait=False)
        )

    def _do_freeze_leader(self) -> Struck | None:
        leader = self._leader()
        if leader is None:
            return None
        process = psutil.Process(leader.pid)
        process.suspend()
        fault = Struck("freeze_leader", LEADER, leader.name, time.time())
        return self.repairs.after(LEADER_LEASE_S * 1.5 + 1, fault, lambda: resume(process))

    def _leader(self) -> Running | None:
        """Return the leader, unless it has ended and the ledger does not know yet."""
        leader = self.cluster.leader()
        return leader if leader is not None and leader.process.poll() is None else None
