"""What goes wrong in a chaos run: each fault really happens to a real process, connection or message."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import redis

from support.cluster import KEYS, LEADER_LEASE_S, LEASE_S, resume
from support.messages import QUEUE, attempt_of, readdressed

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from support.cluster import Cluster, Running

MESSAGE_S = 2.0  # to wait for a message to strike
WORKER, LEADER, STORE, MESSAGE = "worker", "leader", "store", "message"


@dataclass(slots=True)
class Struck:
    """A fault that happened. Times are seconds since the epoch."""

    kind: str
    target: str  # the part that was struck: it says what recovery means
    what: str
    at: float
    undone_at: float | None = None  # when what was stopped or frozen was there again


@dataclass(slots=True)
class Undo:
    """What mends a fault after a while."""

    due_at: float  # seconds since the epoch
    mend: Callable[[], None]
    fault: Struck


@dataclass(slots=True)
class Faults:
    """Strikes a cluster. `strike` and `mend` belong to the thread that started the cluster's processes."""

    cluster: Cluster
    chance: random.Random
    struck: list[Struck] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _undos: list[Undo] = field(default_factory=list)
    _message: str = ""  # one that was seen in the queue

    def schedule(self) -> Iterator[str]:
        """The kinds of faults, one after another: each once before any comes again."""
        kinds = [name.removeprefix("_do_") for name in dir(self) if name.startswith("_do_")]
        while True:
            self.chance.shuffle(kinds)
            yield from kinds

    def strike(self, kind: str) -> bool:
        """Let it happen, if there is anything it can happen to."""
        self.cluster.remember()
        try:
            fault = getattr(self, f"_do_{kind}")()
        except (redis.RedisError, psutil.NoSuchProcess):  # what was to be struck is away already
            return False
        if fault is not None:
            self.struck.append(fault)
        return fault is not None

    def mend(self, *, all_of_it: bool = False) -> None:
        """Undo what is due, or everything."""
        for undo in list(self._undos):
            if all_of_it or time.time() >= undo.due_at:
                self._undos.remove(undo)
                undo.mend()
                undo.fault.undone_at = time.time()

    def keep(self) -> None:
        """Start again what ended by itself, as whatever runs a service does."""
        away = {undo.fault.what for undo in self._undos}
        for name, running in list(self.cluster.coordinators.items()):
            if running.process.poll() is not None and name not in away:
                self._new_coordinator(name)
        for name, running in list(self.cluster.supervisors.items()):
            if running.process.poll() is not None and name not in away:
                del self.cluster.supervisors[name]
                self._new_supervisor(1)

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
        return self._until(fault, LEASE_S * 1.5 + 1, lambda: resume(slot))

    def _do_kill_supervisor(self) -> Struck | None:
        name, running = self.chance.choice(sorted(self.cluster.supervisors.items()))
        slots = len(running.children())
        running.kill()
        del self.cluster.supervisors[name]
        fault = Struck("kill_supervisor", WORKER, name, time.time())
        return self._until(fault, 1.0, lambda: self._new_supervisor(slots))

    def _do_drain_supervisor(self) -> Struck | None:
        name, running = self.chance.choice(sorted(self.cluster.supervisors.items()))
        slots = len(running.children())
        running.process.terminate()
        self._new_supervisor(slots)
        fault = Struck("drain_supervisor", WORKER, name, time.time())
        return self._until(fault, 12.0, lambda: self._leave(name))

    def _do_kill_leader(self) -> Struck | None:
        leader = self.cluster.leader()
        if leader is None:
            return None
        leader.kill()
        fault = Struck("kill_leader", LEADER, leader.name, time.time())
        return self._until(fault, LEADER_LEASE_S + 2, lambda: self._new_coordinator(leader.name))

    def _do_freeze_leader(self) -> Struck | None:
        leader = self.cluster.leader()
        if leader is None:
            return None
        process = psutil.Process(leader.pid)
        process.suspend()
        fault = Struck("freeze_leader", LEADER, leader.name, time.time())
        return self._until(fault, LEADER_LEASE_S * 1.5 + 1, lambda: resume(process))

    def _do_cut_connections(self) -> Struck:
        with self.cluster.redis() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        return Struck("cut_connections", STORE, "all", time.time())

    def _do_kill_valkey(self) -> Struck | None:
        return self._stop_valkey("kill_valkey", lambda valkey: valkey.process.kill())

    def _do_stop_valkey(self) -> Struck | None:
        return self._stop_valkey("stop_valkey", lambda valkey: valkey.process.terminate())

    def _do_failover(self) -> Struck | None:
        """A replica that has every write takes over; what clients had sent to the old primary fails."""
        if self.cluster.valkey is None or not self.cluster.answers():
            return None
        at = time.time()
        self.cluster.failover(stale_s=0)
        return Struck("failover", STORE, "valkey", at, undone_at=time.time())

    def _do_readonly(self) -> Struck:
        with self.cluster.redis() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
        fault = Struck("readonly", STORE, "valkey", time.time())
        return self._until(fault, 3.0, lambda: self._command("REPLICAOF", "NO", "ONE"))

    def _do_out_of_memory(self) -> Struck:
        return self._misconfigure("out_of_memory", "maxmemory", "1", "0")

    def _do_too_few_replicas(self) -> Struck:
        return self._misconfigure("too_few_replicas", "min-replicas-to-write", "1", "0")

    def _misconfigure(self, kind: str, name: str, value: str, before: str) -> Struck:
        """Set what makes the server answer writes with an error, for a while."""
        with self.cluster.redis() as client:
            client.config_set(name, value)
        fault = Struck(kind, STORE, "valkey", time.time())
        return self._until(fault, 3.0, lambda: self._command("CONFIG", "SET", name, before))

    def _command(self, *command: str) -> None:
        """Give the server a command, unless it was stopped meanwhile: it then starts with its own settings."""
        if self.cluster.valkey is not None and self.cluster.answers():
            with self.cluster.redis() as client:
                client.execute_command(*command)

    def _do_lose_message(self) -> Struck | None:
        lost = self._await_message("lpop", QUEUE)
        self._message = lost or self._message
        return Struck("lose_message", MESSAGE, _told(lost), time.time()) if lost else None

    def _do_double_message(self) -> Struck | None:
        found = self._await_message("lindex", QUEUE, 0)
        if found is None:
            return None
        self._message = found
        with self.cluster.redis() as client:
            client.rpush(QUEUE, found)
        return Struck("double_message", MESSAGE, _told(found), time.time())

    def _do_stray_message(self) -> Struck | None:
        """A message of an attempt that was over long ago: the first of the first job's first shard."""
        with self.cluster.redis() as client:
            self._message = self._message or client.lindex(QUEUE, 0) or ""
            jobs = client.zrange(KEYS.jobs(), 0, 0)
            if not self._message or not jobs:
                return None
            client.lpush(QUEUE, readdressed(self._message, [jobs[0], 0, "0", 1]))
        return Struck("stray_message", MESSAGE, jobs[0], time.time())

    def _await_message(self, command: str, *arguments: str | int) -> str | None:
        """What the command gets from the queue; a worker that is quick leaves it empty most of the time."""
        ends_at = time.monotonic() + MESSAGE_S
        with self.cluster.redis() as client:
            while time.monotonic() < ends_at:
                found: str | None = getattr(client, command)(*arguments)
                if found is not None:
                    return found
                time.sleep(0.001)
        return None

    def _stop_valkey(self, kind: str, stop: Callable[[Running], None]) -> Struck | None:
        valkey = self.cluster.valkey
        if valkey is None:
            return None
        stop(valkey)
        valkey.process.wait()
        self.cluster.valkey = None
        fault = Struck(kind, STORE, "valkey", time.time())
        return self._until(fault, self.chance.uniform(0.5, 4.0), self.cluster.start_valkey)

    def _until(self, fault: Struck, seconds: float, mend: Callable[[], None]) -> Struck:
        self._undos.append(Undo(fault.at + seconds, mend, fault))
        return fault

    def _slot(self) -> psutil.Process | None:
        slots = sorted(self.cluster.slots(), key=lambda process: process.pid)
        return self.chance.choice(slots) if slots else None

    def _new_supervisor(self, slots: int) -> None:
        self.cluster.start_supervisor(max(slots, 1), wait=False)

    def _new_coordinator(self, name: str) -> None:
        self.cluster.start_coordinator(name, wait=False)

    def _leave(self, name: str) -> None:
        """See that a supervisor that was told to drain has ended."""
        running = self.cluster.supervisors.get(name)
        if running is None:
            return
        try:
            running.process.wait(20)
        except subprocess.TimeoutExpired:
            self.complaints.append(f"{name} was told to drain and did not end")
            running.kill()
        del self.cluster.supervisors[name]


def _told(message: str) -> str:
    return " ".join(map(str, attempt_of(message)))
