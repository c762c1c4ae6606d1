"""Devices, and the inventory of a machine's devices."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class DeviceKind(StrEnum):
    """A device type of torch."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Device:
    """A device of this machine.

    number: nvidia-smi's number of the GPU, "0"; for a MIG slice its GPU's and its own, "0.1"; "" for the CPU.
    uuid: as in CUDA_VISIBLE_DEVICES: `GPU-…` or `MIG-…`; "" for the CPU.
    model: its product name; "cpu" for the CPU.
    memory_bytes: None if unknown, or if it is the host's.
    """

    kind: DeviceKind
    number: str
    uuid: str
    model: str
    memory_bytes: int | None

    @property
    def name(self) -> str:
        """The name that users give: "cuda:0", "cuda:0.1", "cpu"."""
        return f"{self.kind}:{self.number}" if self.number else str(self.kind)

    @property
    def gpu_number(self) -> str:
        """The number of the GPU that it is, or is a slice of; "" for the CPU."""
        return self.number.partition(".")[0]

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice of a GPU."""
        return "." in self.number


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """The use of a device, by all processes.

    share: of recent time during which it computed, 0 to 1; None: unknown.
    used_bytes: of its memory; None: unknown.
    """

    share: float | None = None
    used_bytes: int | None = None


class Inventory(Protocol):
    """The devices of a machine, and their use by processes. Used by one thread at a time."""

    def devices(self) -> Sequence[Device]:
        """List all devices: the GPUs by number, a divided one as its slices, and always the CPU at the end."""

    def used_bytes(self, device: Device, pid: int) -> int | None:
        """Return the memory of the device that a process uses; None: unknown."""

    def usage(self, device: Device) -> DeviceUsage:
        """Return the device's present use; for the CPU it is unknown, since `psutil` measures it."""

    def close(self) -> None:
        """Close what was opened. A second call has no effect."""
