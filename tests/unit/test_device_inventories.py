# ruff: noqa: N802  # the names are those of the library
"""What every inventory tells, and what NVML's makes of the answers of its library."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from batchmill.errors import InvalidSettings, MissingExtra
from batchmill_worker.devices.base import DeviceKind, DeviceUsage
from batchmill_worker.devices.cpu import CPU, CpuInventory
from batchmill_worker.devices.inventory import open_inventory
from batchmill_worker.devices.nvml import NvmlInventory
from batchmill_worker.devices.stand_in import StandInInventory

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill_worker.devices.base import Inventory

GB = 1 << 30


class FakeNvml(ModuleType):
    """The part of `pynvml` that is used, over a made-up machine: a whole GPU, a divided one, and a shy one.

    Handles are the names of devices. A shy GPU supports neither division nor a question for its memory.
    """

    NVMLError = pynvml.NVMLError
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = pynvml.NVMLError_DriverNotLoaded
    NVMLError_NotFound = pynvml.NVMLError_NotFound
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE
    gpus = ("whole", "divided", "shy")
    slices = ("slice a", None, "slice b")

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__("pynvml")
        self.failure = failure
        self.open = 0

    def nvmlInit(self) -> None:
        if self.failure:
            raise self.failure
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self.gpus[index]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "shy":
            raise pynvml.NVMLError_NotSupported
        return [int(handle == "divided"), 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return len(self.slices) if handle == "divided" else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, place: int) -> str:
        found = self.slices[place]
        if handle != "divided" or found is None:
            raise pynvml.NVMLError_NotFound
        return found

    def nvmlDeviceGetUUID(self, handle: str) -> str | bytes:
        uuids: dict[str, str | bytes] = {"whole": "GPU-w", "shy": b"GPU-s", "slice a": "MIG-a", "slice b": "MIG-b"}
        return uuids[handle]

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA A100-SXM4-40GB" + (" MIG 1g.5gb" if handle.startswith("slice") else "")

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        if handle == "shy":
            raise pynvml.NVMLError_NotSupported
        return SimpleNamespace(total=40 * GB if handle == "whole" else 5 * GB, used=2 * GB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        if handle != "whole":
            raise pynvml.NVMLError_NotSupported
        return SimpleNamespace(gpu=75, memory=10)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        if handle == "shy":
            raise pynvml.NVMLError_NoPermission
        return [SimpleNamespace(pid=11, usedGpuMemory=3 * GB), SimpleNamespace(pid=12, usedGpuMemory=None)]


def nvml_inventory(_: Path) -> Inventory:
    return NvmlInventory.open(FakeNvml()) or CpuInventory()


def stand_in_inventory(folder: Path) -> Inventory:
    gpus = [{"number": "0", "uuid": "GPU-0", "model": "NVIDIA L4", "memory_mb": 24_000, "used_mb": 7}]
    (folder / "devices.json").write_text(json.dumps([*gpus, {"number": "1.0", "uuid": "MIG-1", "model": "slice"}]))
    return StandInInventory(folder / "devices.json")


@pytest.fixture(params=[nvml_inventory, stand_in_inventory, lambda _: CpuInventory()], ids=["nvml", "stand-in", "cpu"])
def inventory(request: pytest.FixtureRequest, tmp_path: Path) -> Inventory:
    made: Inventory = request.param(tmp_path)
    return made


def test_the_cpu_is_there_once_and_last(inventory: Inventory) -> None:
    kinds = [device.kind for device in inventory.devices()]
    assert kinds == [DeviceKind.CUDA] * (len(kinds) - 1) + [DeviceKind.CPU]


def test_names_and_uuids_identify_devices_and_are_the_same_each_time(inventory: Inventory) -> None:
    devices = inventory.devices()
    assert len({device.name for device in devices}) == len({device.uuid for device in devices}) == len(devices)
    assert all(device.uuid for device in devices if device.kind is DeviceKind.CUDA)
    assert inventory.devices() == devices


def test_memory_in_use_is_a_number_or_not_known(inventory: Inventory) -> None:
    for device in inventory.devices():
        used = inventory.used_bytes(device, 11)
        assert used is None or used > 0
    assert inventory.used_bytes(CPU, 11) is None


def test_what_is_used_of_a_device_is_a_share_and_a_number_or_not_known(inventory: Inventory) -> None:
    for device in inventory.devices():
        usage = inventory.usage(device)
        assert usage.share is None or 0 <= usage.share <= 1
        assert usage.used_bytes is None or usage.used_bytes > 0
    assert inventory.usage(CPU) == DeviceUsage()


def test_an_inventory_can_be_closed_twice(inventory: Inventory) -> None:
    inventory.close()
    inventory.close()


def test_nvml_lists_gpus_and_slices_and_leaves_out_what_they_do_not_report() -> None:
    nvml = FakeNvml()
    inventory = NvmlInventory.open(nvml)
    assert inventory is not None
    whole, first, second, shy, _ = inventory.devices()
    assert [device.name for device in (whole, first, second, shy)] == ["cuda:0", "cuda:1.0", "cuda:1.2", "cuda:2"]
    assert [device.uuid for device in (whole, first, second, shy)] == ["GPU-w", "MIG-a", "MIG-b", "GPU-s"]
    assert [device.is_slice for device in (whole, first, second, shy)] == [False, True, True, False]
    assert (first.model, first.memory_bytes, shy.memory_bytes) == ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5 * GB, None)
    assert [inventory.used_bytes(whole, pid) for pid in (11, 12, 13)] == [3 * GB, None, None]
    assert inventory.used_bytes(shy, 11) is None
    usages = [inventory.usage(device) for device in (whole, first, shy)]
    assert usages == [DeviceUsage(0.75, 2 * GB), DeviceUsage(None, 2 * GB), DeviceUsage()]
    inventory.close()
    assert nvml.open == 0


def test_a_stand_in_has_the_use_that_its_file_says_and_none_while_it_is_written(tmp_path: Path) -> None:
    gpu = {"number": "0", "uuid": "GPU-0", "model": "m", "memory_mb": 10, "used_mb": 3, "share": 0.5}
    path = tmp_path / "devices.json"
    path.write_text(json.dumps([gpu]))
    inventory = StandInInventory(path)
    device = inventory.devices()[0]
    assert inventory.usage(device) == DeviceUsage(0.5, 3 << 20)
    path.write_text("[")
    assert inventory.usage(device) == DeviceUsage()


def test_the_fake_library_has_nothing_that_the_real_one_lacks() -> None:
    assert [name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML")) and not hasattr(pynvml, name)] == []


@pytest.mark.parametrize("failure", [pynvml.NVMLError_LibraryNotFound(), pynvml.NVMLError_DriverNotLoaded()])
def test_a_machine_without_a_driver_has_a_cpu(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(failure))
    assert open_inventory("auto").devices() == (CPU,)


def test_a_broken_driver_is_reported_unless_only_the_cpu_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    mismatch = pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(mismatch))
    with pytest.raises(InvalidSettings, match=r"NVML reports.*--devices cpu"):
        open_inventory("auto")
    assert open_inventory("cpu").devices() == (CPU,)


def test_gpus_that_nothing_can_find_are_not_passed_over_in_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_inventory("auto", driver=tmp_path / "none").devices() == (CPU,)
    (tmp_path / "version").touch()
    with pytest.raises(MissingExtra, match=r"batchmill\[gpu\]"):
        open_inventory("auto", driver=tmp_path / "version")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("[{]", "Invalid JSON"),
        ([{"number": "0", "uuid": "GPU-0"}], "model"),
        ([{"number": "zero", "uuid": "GPU-0", "model": "m"}], "number"),
        ([{"number": "0", "uuid": uuid, "model": "m"} for uuid in "ab"], "one number"),
    ],
)
def test_a_wrong_file_of_devices_is_named(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InvalidSettings, match=said) as caught:
        open_inventory("auto", str(path)).devices()
    assert str(path) in caught.value.message
