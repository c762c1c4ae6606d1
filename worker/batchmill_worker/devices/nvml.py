"""NVIDIA's GPUs and their MIG slices, through NVML: it creates no CUDA context and needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidSettings
from batchmill_worker.devices.base import Device, DeviceKind, DeviceUsage
from batchmill_worker.devices.cpu import CPU

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType


class NvmlInventory:
    """The GPUs that the driver knows, each MIG slice a device of its own, and the CPU."""

    def __init__(self, nvml: ModuleType) -> None:
        """`nvml`: the module `pynvml`, initialised; `close` ends it."""
        self._nvml = nvml
        self._handles: dict[str, Any] = {}  # by uuid
        self._is_open = True

    @classmethod
    def open(cls, nvml: ModuleType) -> NvmlInventory | None:
        """Open the inventory, or return None without a driver. Raises `InvalidSettings` if the driver is broken."""
        try:
            nvml.nvmlInit()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
            return None
        except nvml.NVMLError as error:
            raise InvalidSettings(
                f"the GPUs cannot be listed: NVML reports {error}.",
                hint="Run nvidia-smi and fix the driver, or run on the CPU with --devices cpu.",
                name="BATCHMILL_DEVICES",
            ) from error
        return cls(nvml)

    def devices(self) -> Sequence[Device]:
        """List the devices that the driver reports now."""
        found = [self._device(number, handle) for number, handle in self._numbered()]
        return (*found, CPU)

    def used_bytes(self, device: Device, pid: int) -> int | None:
        """Return what the driver counts for a process; None where it does not, as in some containers and slices."""
        handle = self._handles.get(device.uuid)
        if handle is None:
            return None
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except self._nvml.NVMLError:
            return None
        return next((process.usedGpuMemory for process in processes if process.pid == pid), None)

    def usage(self, device: Device) -> DeviceUsage:
        """Return what the driver measures; for a slice, the memory only."""
        handle = self._handles.get(device.uuid)
        if handle is None:
            return DeviceUsage()
        nvml = self._nvml
        try:
            share: float | None = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except nvml.NVMLError:
            share = None
        try:
            used: int | None = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        except nvml.NVMLError:
            used = None
        return DeviceUsage(share, used)

    def close(self) -> None:
        """End NVML."""
        if self._is_open:
            self._is_open = False
            self._nvml.nvmlShutdown()

    def _numbered(self) -> Iterator[tuple[str, Any]]:
        for index in range(self._nvml.nvmlDeviceGetCount()):
            gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
            if not self._is_divided(gpu):
                yield str(index), gpu
                continue
            for place in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                try:
                    yield f"{index}.{place}", self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
                except self._nvml.NVMLError_NotFound:  # not every slot of a GPU need have a slice
                    continue

    def _is_divided(self, gpu: Any) -> bool:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(gpu)
        except self._nvml.NVMLError:  # raised by models that cannot be divided, which are most
            return False
        return bool(current == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def _device(self, number: str, handle: Any) -> Device:
        uuid = _text(self._nvml.nvmlDeviceGetUUID(handle))
        self._handles[uuid] = handle
        return Device(
            DeviceKind.CUDA, number, uuid, _text(self._nvml.nvmlDeviceGetName(handle)), self._memory_bytes(handle)
        )

    def _memory_bytes(self, handle: Any) -> int | None:
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total)
        except self._nvml.NVMLError:  # where device and host share their memory
            return None


def _text(value: str | bytes) -> str:
    """Return text as str; older releases of the library return bytes."""
    return value.decode() if isinstance(value, bytes) else value
