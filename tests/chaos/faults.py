"""What goes wrong in a chaos run: each fault really happens to a real process, connection, disk, clock or message.

A set of faults is a class with methods `_do_KIND`; each returns what it struck, or None if there is nothing to strike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import redis

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from support.cluster import Cluster

WORKER, LEADER, STORE, MESSAGE, DISK, DATA = "worker", "leader", "store", "message", "disk", "data"


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
    repair: Callable[[], object]
    fault: Struck


@dataclass(slots=True)
class Repairs:
    """The faults that last, and what mends them. complaints: what the service did not do meanwhile."""

    undos: list[Undo] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def after(self, seconds: float, fault: Struck, repair: Callable[[], object]) -> Struck:
        """Repair a fault so long after it began."""
        self.undos.append(Undo(fault.at + seconds, repair, fault))
        return fault

    def lasts(self, *kinds: str) -> bool:
        """Whether a fault of one of these kinds lasts."""
        return any(undo.fault.kind in kinds for undo in self.undos)

    def struck(self) -> set[str]:
        """Return what the faults that last have struck."""
        return {undo.fault.what for undo in self.undos}

    def repair(self, *, all_of_it: bool) -> None:
        """Undo what is due, or everything."""
        for undo in list(self.undos):
            if all_of_it or time.time() >= undo.due_at:
                self.undos.remove(undo)
                undo.repair()
                undo.fault.undone_at = time.time()


class FaultSet:
    """Faults that have something in common."""

    def __init__(self, cluster: Cluster, chance: random.Random, repairs: Repairs) -> None:
        self.cluster = cluster
        self.chance = chance
        self.repairs = repairs

    def kinds(self) -> dict[str, Callable[[], Struck | None]]:
        """Return what strikes, by kind."""
        prefix = "_do_"
        return {name.removeprefix(prefix): getattr(self, name) for name in dir(self) if name.startswith(prefix)}


class Faults:
    """Strikes a cluster. `strike`, `repair` and `keep` belong to the thread that started the cluster's processes."""

    def __init__(self, cluster: Cluster, chance: random.Random, repairs: Repairs, sets: Sequence[FaultSet]) -> None:
        self.struck: list[Struck] = []
        self._cluster = cluster
        self._chance = chance
        self._repairs = repairs
        self._kinds = {kind: strike for each in sets for kind, strike in each.kinds().items()}

    def schedule(self) -> Iterator[str]:
        """The kinds of faults, one after another: each once before any comes again."""
        kinds = list(self._kinds)
        while True:
            self._chance.shuffle(kinds)
            yield from kinds

    def strike(self, kind: str) -> bool:
        """Let it happen, if there is anything it can happen to."""
        self._cluster.remember()
        try:
            fault = self._kinds[kind]()
        except (redis.RedisError, psutil.NoSuchProcess):  # what was to be struck is away already
            return False
        if fault is not None:
            self.struck.append(fault)
        return fault is not None

    def repair(self, *, all_of_it: bool = False) -> None:
        """Undo what is due, or everything."""
        self._repairs.repair(all_of_it=all_of_it)

    def keep(self) -> None:
        """Start again what ended by itself, as whatever runs a service does."""
        away = self._repairs.struck()
        for name, running in list(self._cluster.coordinators.items()):
            if running.process.poll() is not None and name not in away:
                self._cluster.start_coordinator(name, wait=False)
        for name, running in list(self._cluster.supervisors.items()):
            if running.process.poll() is not None and name not in away:
                del self._cluster.supervisors[name]
                self._cluster.start_supervisor(1, wait=False)
