"""How much memory models may use on a device, and how much one uses."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
MIN_BYTES = MIB
"""The size of an operator that reports none and for which nothing can be measured."""

HOST_SHARE = 0.5  # the rest is for rows, batches, and whatever else runs there
DEVICE_SHARE = 0.8  # the rest is for batches

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class SlotMemory:
    """The memory that the process of a slot may use. total: bytes that it shares with `sharers` processes in all."""

    total: int
    sharers: int = 1

    @property
    def own(self) -> int:
        """The part of one process."""
        return self.total // self.sharers


def slot_memory(device_bytes: int | None, processes: int) -> SlotMemory:
    """Return the memory of one process; the arguments are those of `default_budget`."""
    return SlotMemory(device_bytes) if device_bytes is not None else SlotMemory(host_memory(), processes)


def default_budget(device_bytes: int | None, processes: int) -> int:
    """Return the bytes that the models of one process may use: a share of the device's memory, or of the host's.

    device_bytes: the process's part of its device's memory; None: it runs on the CPU. processes: how many share the
    host's memory.
    """
    if device_bytes is not None:
        return int(device_bytes * DEVICE_SHARE)
    return int(host_memory() * HOST_SHARE / processes)


def host_memory() -> int:
    """Return the bytes this process may use: the machine's memory, or the limit of its control group."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_limit(path) for path in _CGROUP_LIMITS]
    return min([total, *(limit for limit in limits if limit)])


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


class MemoryProbe:
    """Measures how memory use grows while a model is loaded: the device's as torch counts it, else the process's."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.grown = 0

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure the growth while the context lasts, into `grown`."""
        before = self._in_use()
        yield
        self.grown = max(self._in_use() - before, 0)

    def size_of(self, operator: Any) -> int:
        """Return the bytes an operator uses: what its `memory_bytes()` reports, else what was measured; never 0."""
        report = getattr(operator, "memory_bytes", None)
        reported = int(report()) if report is not None else 0
        return max(reported or self.grown, MIN_BYTES)

    def _in_use(self) -> int:
        if not self._device.startswith("cuda"):
            return _resident_bytes()
        torch = sys.modules.get("torch")
        return int(torch.cuda.memory_allocated(self._device)) if torch is not None else 0


def _resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not report it."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
