"""A machine without GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_worker.devices.base import Device, DeviceKind, DeviceUsage

if TYPE_CHECKING:
    from collections.abc import Sequence

CPU = Device(DeviceKind.CPU, number="", uuid="", model="cpu", memory_bytes=None)
"""The CPU of any machine."""


class CpuInventory:
    """The CPU alone."""

    def devices(self) -> Sequence[Device]:
        """Return the CPU."""
        return (CPU,)

    def used_bytes(self, device: Device, pid: int) -> int | None:  # noqa: ARG002  # as every inventory
        """Return None: the CPU's memory is the host's, which is measured separately."""
        return None

    def usage(self, device: Device) -> DeviceUsage:  # noqa: ARG002  # as every inventory
        """Return an unknown use."""
        return DeviceUsage()

    def close(self) -> None:
        """Do nothing: nothing was opened."""
