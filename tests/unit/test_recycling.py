"""When a process is replaced for the memory it uses."""

from __future__ import annotations

import os

from batchmill_worker.devices.base import Device, DeviceKind
from batchmill_worker.devices.cpu import CpuInventory
from batchmill_worker.supervisor.recycling import MIB, MIN_RECYCLE_INTERVAL_S, MemoryLimits, Recycler
from support.hand_clock import HandClock


class Crowded(CpuInventory):
    """Every process uses 300 MiB of GPU 1, and nobody knows what of GPU 0."""

    def used_bytes(self, device: Device, pid: int) -> int | None:  # noqa: ARG002  # as every inventory
        return 300 * MIB if device.number == "1" else None


GPUS = [Device(DeviceKind.CUDA, number, f"GPU-{number}", "model", None) for number in ("0", "1")]


def test_without_limits_nobody_is_recycled() -> None:
    assert Recycler(MemoryLimits(), Crowded()).reason("slot", os.getpid(), GPUS) == ""


def test_a_process_over_the_hosts_limit_is_recycled_with_the_reason() -> None:
    assert "resident memory, over the limit of 1 MiB" in Recycler(MemoryLimits(1), Crowded()).reason(
        "s", os.getpid(), []
    )
    assert Recycler(MemoryLimits(1_000_000), Crowded()).reason("s", os.getpid(), []) == ""


def test_a_process_over_the_limit_on_one_of_its_devices_is_recycled() -> None:
    reason = Recycler(MemoryLimits(device_mb=299), Crowded()).reason("slot", 1, GPUS)
    assert reason == "300 MiB of memory on cuda:1, over the limit of 299 MiB"
    assert Recycler(MemoryLimits(device_mb=299), Crowded()).reason("slot", 1, GPUS[:1]) == ""
    assert Recycler(MemoryLimits(device_mb=300), Crowded()).reason("slot", 1, GPUS) == ""


def test_a_limit_that_is_too_low_lets_a_slot_work_between_two_recyclings() -> None:
    clock = HandClock()
    recycler = Recycler(MemoryLimits(device_mb=1), Crowded(), clock)
    assert recycler.reason("slot", 1, GPUS)
    clock.now_s += MIN_RECYCLE_INTERVAL_S - 1
    assert recycler.reason("slot", 2, GPUS) == ""
    assert recycler.reason("other", 3, GPUS)
    clock.now_s += 2
    assert recycler.reason("slot", 2, GPUS)


def test_a_process_that_has_just_ended_is_not_recycled() -> None:
    assert Recycler(MemoryLimits(1), Crowded()).reason("slot", 2**22 + 1, []) == ""
