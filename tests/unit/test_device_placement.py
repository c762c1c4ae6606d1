"""Slots on devices: their names, what they see, and the division of the cores between them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given

from batchmill.fleet import WorkerInfo
from batchmill_worker.devices.base import Device, DeviceKind
from batchmill_worker.devices.cores import Cores, CoreShare, divide, usable_cores
from batchmill_worker.devices.cpu import CPU
from batchmill_worker.devices.placement import THREAD_VARIABLES, WAIT_POLICY, Placement, SlotIdentity, place
from batchmill_worker.devices.selection import select

if TYPE_CHECKING:
    from pathlib import Path

GB = 1 << 30
DEVICES = [
    *(Device(DeviceKind.CUDA, str(n), f"GPU-{n}", "NVIDIA L4", 24 * GB) for n in range(2)),
    Device(DeviceKind.CUDA, "2.1", "MIG-x", "NVIDIA A100 MIG 1g.5gb", None),
    CPU,
]
FOUR = Cores(((0,), (1,), (2,), (3,)))
THREADED = Cores(((0, 4), (1, 5), (2, 6), (3, 7)))


def placed(devices: str, slots_per_device: int = 1, cores: Cores = FOUR, **more: dict[str, str]) -> list[Placement]:
    return place(select(devices, DEVICES), slots_per_device, cores, "host", 7, set_by_user=more.get("env"))


@pytest.mark.parametrize(
    ("devices", "slots_per_device", "names"),
    [
        ("cpu", 1, ["cpu0@host-7"]),
        ("cpu", 3, ["cpu0@host-7", "cpu1@host-7", "cpu2@host-7"]),
        ("auto", 1, ["gpu0@host-7", "gpu1@host-7", "gpu2.1@host-7"]),
        ("cuda:0+1,2.1", 1, ["gpu0+1@host-7", "gpu2.1@host-7"]),
        ("cuda:1,cpu", 2, ["gpu1-0@host-7", "gpu1-1@host-7", "cpu0@host-7", "cpu1@host-7"]),
    ],
)
def test_slots_are_named_after_their_devices(devices: str, slots_per_device: int, names: list[str]) -> None:
    slots = [one.identity for one in placed(devices, slots_per_device)]
    assert [slot.name for slot in slots] == names
    assert [slot.slot for slot in slots] == list(range(len(names)))


def test_each_slot_sees_its_own_devices_and_no_others() -> None:
    env = {one.identity.name: one.env["CUDA_VISIBLE_DEVICES"] for one in placed("cuda:1+0,2.1,cpu")}
    assert env == {"gpu1+0@host-7": "GPU-1,GPU-0", "gpu2.1@host-7": "MIG-x", "cpu0@host-7": ""}
    assert {one.env["CUDA_DEVICE_ORDER"] for one in placed("all")} == {"PCI_BUS_ID"}


def test_a_slot_knows_its_device_and_its_share_of_the_memory() -> None:
    both, sliced, cpu = (one.identity for one in placed("cuda:0+1,2.1,cpu")[:3])
    assert (both.device, both.device_type, both.device_count, both.memory_bytes) == ("cuda:0", "NVIDIA L4", 2, 48 * GB)
    assert (sliced.device, sliced.memory_bytes) == ("cuda:0", None)
    assert (cpu.device, cpu.device_type, cpu.device_count, cpu.memory_bytes) == ("cpu", "cpu", 1, None)
    assert [one.identity.memory_bytes for one in placed("cuda:0", 3)] == [8 * GB] * 3
    assert set(SlotIdentity.model_fields) <= set(WorkerInfo.model_fields)


def test_threads_fit_the_cores_and_what_the_user_set_is_left_alone() -> None:
    first, second = placed("cpu", 2)
    assert (first.cores, second.cores) == ((0, 1), (2, 3))
    assert {first.env[variable] for variable in THREAD_VARIABLES} == {"2"}
    (alone,) = placed("cpu", env={"OMP_NUM_THREADS": "1"})
    assert "OMP_NUM_THREADS" not in alone.env
    assert alone.env["MKL_NUM_THREADS"] == "4"


def test_idle_threads_sleep_unless_the_user_says_otherwise() -> None:
    assert {one.env[WAIT_POLICY] for one in placed("cpu", 2)} == {"passive"}
    (alone,) = placed("cpu", env={WAIT_POLICY: "active"})
    assert WAIT_POLICY not in alone.env


@pytest.mark.parametrize(
    ("cores", "slots", "expected"),
    [
        (FOUR, 1, [CoreShare(None, 4)]),
        (FOUR, 3, [CoreShare((0, 1), 2), CoreShare((2,), 1), CoreShare((3,), 1)]),
        (FOUR, 5, [CoreShare(None, 1)] * 5),
        (THREADED, 1, [CoreShare(None, 4)]),
        (THREADED, 2, [CoreShare((0, 4, 1, 5), 2), CoreShare((2, 6, 3, 7), 2)]),
        (Cores(((0, 1),)), 2, [CoreShare((0,), 1), CoreShare((1,), 1)]),
        (Cores(FOUR.siblings, quota=2.5), 1, [CoreShare(None, 2)]),
        (Cores(FOUR.siblings, quota=2.5), 2, [CoreShare(None, 1)] * 2),
        (Cores(FOUR.siblings, quota=8.0), 2, [CoreShare((0, 1), 2), CoreShare((2, 3), 2)]),
        (Cores(FOUR.siblings, quota=0.5), 1, [CoreShare(None, 1)]),
    ],
)
def test_cores_are_divided_evenly_with_siblings_together(cores: Cores, slots: int, expected: list[CoreShare]) -> None:
    assert divide(cores, slots) == expected


def test_nobody_is_pinned_when_that_is_switched_off() -> None:
    assert divide(FOUR, 2, pin=False) == [CoreShare(None, 2)] * 2


@given(st.integers(1, 40), st.integers(1, 2), st.integers(1, 90))
def test_no_core_is_lost_or_shared(physical: int, threads: int, slots: int) -> None:
    cores = Cores(tuple(tuple(range(n * threads, n * threads + threads)) for n in range(physical)))
    shares = divide(cores, slots)
    pinned = [core for share in shares for core in share.pinned or ()]
    assert len(shares) == slots
    assert all(share.threads >= 1 for share in shares)
    assert sorted(pinned) == (list(range(physical * threads)) if 1 < slots <= physical * threads else [])


def test_the_cores_that_may_be_used_are_those_of_this_process() -> None:
    found = sorted(core for together in usable_cores().siblings for core in together)
    assert found == sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/pod/box\n", {"pod/cpu.max": "250000 100000", "pod/box/cpu.max": "max 100000"}, 2.5),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("3:cpu,cpuacct:/gone\n0::/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "300000"}, 3.0),
        ("3:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_a_containers_quota_is_found(
    membership: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for name, content in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        (path.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path / "fs", tmp_path, membership=tmp_path).quota == quota


def test_hyperthreads_of_one_core_are_found(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    for core in allowed:
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text("5\n")
    assert usable_cores(tmp_path, tmp_path, tmp_path) == Cores((tuple(allowed),))
