"""Devices from a JSON file instead of the machine's: to try selection and placement without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, TypeAdapter, ValidationError

from batchmill.errors import InvalidSettings
from batchmill.jobs.frozen import Frozen
from batchmill_worker.devices.base import Device, DeviceKind, DeviceUsage
from batchmill_worker.devices.cpu import CPU

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIB = 1024 * 1024


class StandInGpu(Frozen):
    """A GPU, or a MIG slice of one, as the file describes it."""

    number: str = Field(pattern=r"^\d+(\.\d+)?$")
    uuid: str = Field(min_length=1)
    model: str = Field(min_length=1)
    memory_mb: int | None = Field(default=None, ge=0)
    used_mb: int | None = Field(default=None, ge=0)  # by each process that asks, and in all
    share: float | None = Field(default=None, ge=0, le=1)  # of the time that it computes


_GPUS = TypeAdapter(list[StandInGpu])


class StandInInventory:
    """The GPUs that a JSON file lists, and the CPU. The file is read at every call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def devices(self) -> Sequence[Device]:
        """List the devices. Raises `InvalidSettings` if the file is missing or invalid."""
        found = [
            Device(DeviceKind.CUDA, gpu.number, gpu.uuid, gpu.model, gpu.memory_mb and gpu.memory_mb * MIB)
            for gpu in self._read()
        ]
        return (*found, CPU)

    def used_bytes(self, device: Device, pid: int) -> int | None:  # noqa: ARG002  # the file knows no processes
        """Return the used memory that the file lists for the device."""
        used = {gpu.uuid: gpu.used_mb for gpu in self._read()}.get(device.uuid)
        return None if used is None else used * MIB

    def usage(self, device: Device) -> DeviceUsage:
        """Return the use that the file lists; unknown while the file is being written."""
        try:
            gpus = {gpu.uuid: gpu for gpu in self._read()}
        except InvalidSettings:
            return DeviceUsage()
        gpu = gpus.get(device.uuid)
        return DeviceUsage(gpu.share, gpu.used_mb and gpu.used_mb * MIB) if gpu else DeviceUsage()

    def close(self) -> None:
        """Do nothing: nothing stays open."""

    def _read(self) -> list[StandInGpu]:
        try:
            gpus = _GPUS.validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            raise self._refusal(str(error)) from error
        if len({gpu.number for gpu in gpus}) < len(gpus) or len({gpu.uuid for gpu in gpus}) < len(gpus):
            raise self._refusal("two devices have one number, or one uuid")
        return gpus

    def _refusal(self, reason: str) -> InvalidSettings:
        return InvalidSettings(
            f"{self._path} is no list of devices: {reason}.",
            hint='Expected JSON: [{"number": "0", "uuid": "GPU-…", "model": "…", "memory_mb": 81920}, …].',
            name="BATCHMILL_STAND_IN_DEVICES",
        )
