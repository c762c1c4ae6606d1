"""The CPU cores that this process may use, and their division among slots, so that slots do not compete for them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CGROUPS = Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Cores:
    """The usable part of the CPU.

    siblings: the logical cores, grouped by physical core.
    quota: how many cores may be busy on average, if a container limits that below all of them; else None.
    """

    siblings: tuple[tuple[int, ...], ...]
    quota: float | None = None


@dataclass(frozen=True, slots=True)
class CoreShare:
    """One slot's share.

    pinned: the logical cores it runs on; None: any, because there is nothing to divide.
    threads: the number of threads for a library to compute with: one per physical core.
    """

    pinned: tuple[int, ...] | None
    threads: int


def divide(cores: Cores, slots: int, *, pin: bool = True) -> list[CoreShare]:
    """Divide the cores among slots. Pure.

    Physical cores are not split while there are enough of them. No slot is pinned if there is only one, if there are
    more slots than cores, or if there is a quota: that limits time, not which cores, and on a shared machine every
    container would pin itself to the first cores.
    """
    logical = [number for together in cores.siblings for number in together]
    limit = usable_count(cores)
    if cores.quota is not None and cores.quota < len(logical):
        pin = False
    if slots == 1 or slots > len(logical) or not pin:
        return [CoreShare(None, max(1, limit // slots))] * slots
    units = list(cores.siblings) if slots <= len(cores.siblings) else [(number,) for number in logical]
    return [
        CoreShare(tuple(number for unit in part for number in unit), threads=len(part)) for part in _parts(units, slots)
    ]


def usable_count(cores: Cores) -> int:
    """Return how many physical cores may be busy at a time; 0 for a quota below one."""
    logical = sum(map(len, cores.siblings))
    if cores.quota is not None and cores.quota < logical:
        return min(len(cores.siblings), math.floor(cores.quota))
    return len(cores.siblings)


def usable_cores(cgroups: Path = CGROUPS, topology: Path = TOPOLOGY, membership: Path = Path("/proc/self")) -> Cores:
    """Find what this process may use: its affinity, which includes a container's cpuset, and its cgroup's quota."""
    has_affinity = hasattr(os, "sched_getaffinity")
    allowed = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    physical: dict[object, list[int]] = {}
    for number in allowed:
        physical.setdefault(_physical_core(topology, number), []).append(number)
    quotas = list(_quotas(cgroups, membership / "cgroup"))
    return Cores(tuple(tuple(together) for together in physical.values()), min(quotas, default=None))


def _parts(units: Sequence[tuple[int, ...]], count: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Cut `units` in order into parts whose lengths differ by at most one, the longer ones first."""
    length, longer = divmod(len(units), count)
    start = 0
    for place in range(count):
        end = start + length + (place < longer)
        yield units[start:end]
        start = end


def _physical_core(topology: Path, number: int) -> object:
    """Return an id of the physical core of a logical core; where it is unknown, each is its own."""
    folder = topology / f"cpu{number}" / "topology"
    try:
        return (folder / "physical_package_id").read_text(), (folder / "core_id").read_text()
    except OSError:
        return number


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process's cgroup and its parents, in cores: cgroups of version 2 and 1."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            yield from _quota_of(place)
            if place == top:
                break


def _quota_of(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            granted, period = (folder / "cpu.max").read_text().split()
        else:
            granted = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
    except (OSError, ValueError):
        return
    if granted not in ("max", "-1"):
        yield int(granted) / int(period)
