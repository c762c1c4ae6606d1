"""What a device is, and what an inventory tells of the devices of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class DeviceKind(StrEnum):
    """What a device is to torch."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Device:
    """A device of this machine.

    number: as nvidia-smi counts GPUs, "0"; of a MIG slice its GPU's and its own, "0.1"; "" of the CPU.
    uuid: as CUDA_VISIBLE_DEVICES takes it: `GPU-…` or `MIG-…`; "" of the CPU.
    model: as its maker calls it; "cpu" of the CPU.
    memory_bytes: None where it is not known, or the host's.
    """

    kind: DeviceKind
    number: str
    uuid: str
    model: str
    memory_bytes: int | None

    @property
    def name(self) -> str:
        """As users name it: "cuda:0", "cuda:0.1", "cpu"."""
        return f"{self.kind}:{self.number}" if self.number else str(self.kind)

    @property
    def gpu_number(self) -> str:
        """The number of the GPU that it is, or is a slice of; "" of the CPU."""
        return self.number.partition(".")[0]

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice of a GPU."""
        return "." in self.number


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """What is used of a device, by anybody.

    share: of the time of late that it computed, 0 to 1; None where that is not known.
    used_bytes: of its memory; None where that is not known.
    """

    share: float | None = None
    used_bytes: int | None = None


class Inventory(Protocol):
    """The devices of a machine, and what processes use of them. Used by one thread at a time."""

    def devices(self) -> Sequence[Device]:
        """All of them: the GPUs by number, a divided one as its slices; the CPU last, always."""

    def used_bytes(self, device: Device, pid: int) -> int | None:
        """The memory of the device that a process uses; None where that is not known."""

    def usage(self, device: Device) -> DeviceUsage:
        """What is used of the device now; nothing known of the CPU, which is the machine's own matter."""

    def close(self) -> None:
        """Let go of what was opened. Calling it again does nothing."""
