"""The memory use at which the process of a slot is drained and restarted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from batchmill.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.devices.base import Device, Inventory

log = logging.getLogger(__name__)

MIB = 1024 * 1024
MIN_RECYCLE_INTERVAL_S = 60.0
"""A slot is recycled no more often: even with a limit below what its operators need, it gets work done."""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """What a process may use, in MiB; 0: no limit.

    rss_mb: resident memory of the host.
    device_mb: memory of any one of its devices.
    """

    rss_mb: int = 0
    device_mb: int = 0


class Recycler:
    """Decides which processes are to be replaced."""

    def __init__(self, limits: MemoryLimits, inventory: Inventory, clock: Clock | None = None) -> None:
        self._limits = limits
        self._inventory = inventory
        self._clock = clock or SystemClock()
        self._recycled_at: dict[str, float] = {}

    def reason(self, name: str, pid: int, devices: Sequence[Device]) -> str:
        """Return why to recycle the slot's process; "" if it stays, or was recycled less than a minute ago."""
        now = self._clock.monotonic()
        if now - self._recycled_at.get(name, float("-inf")) < MIN_RECYCLE_INTERVAL_S:
            return ""
        reason = self._host(pid) or self._device(pid, devices)
        if reason:
            self._recycled_at[name] = now
        return reason

    def _host(self, pid: int) -> str:
        limit = self._limits.rss_mb
        if not limit:
            return ""
        try:
            used = psutil.Process(pid).memory_info().rss
        except psutil.Error:  # it has just ended
            return ""
        return _excess("resident memory", used, limit)

    def _device(self, pid: int, devices: Sequence[Device]) -> str:
        limit = self._limits.device_mb
        used = [(device.name, self._inventory.used_bytes(device, pid)) for device in devices if limit]
        reasons = (_excess(f"memory on {name}", taken, limit) for name, taken in used if taken is not None)
        return next((reason for reason in reasons if reason), "")


def _excess(what: str, used_bytes: int, limit_mb: int) -> str:
    return f"{used_bytes // MIB} MiB of {what}, over the limit of {limit_mb} MiB" if used_bytes > limit_mb * MIB else ""
